"""Talking to models: the chat behind `tune try`."""
