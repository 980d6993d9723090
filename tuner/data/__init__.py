"""Rows: reading them, recognising their shape, rendering conversations with loss masks, keeping them ready on disk."""
