"""What `hardware=…` means to Transformers and Accelerate: a module a strategy, each with a `STRATEGY` (`base.py` says what that is)."""
