"""Training on Transformers' Trainer: its arguments from a recipe, the loss, what is logged, checkpoints that are whole or not there."""
