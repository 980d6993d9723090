"""How many parameters a model has, and how many are trained: `describe(model)` -> {"parameters": …, "trainable": …}."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel

COUNT = ".ranknum."  # AdaLoRA's number of ranks, which is no weight


def is_4bit(weight: torch.Tensor) -> bool:
    """Whether a weight is held in 4 bits, two numbers to a byte."""
    return weight.__class__.__name__ == "Params4bit"


def describe(model: torch.nn.Module) -> dict[str, Any]:
    """Parameter counts: the base model's, and how many are trained."""
    # Of a weight that DeepSpeed has cut nothing is here but its size.
    here = [p for name, p in model.named_parameters() if COUNT not in name]
    count = [(getattr(p, "ds_numel", p.numel()) * (2 if is_4bit(p) else 1), p.requires_grad) for p in here]
    trainable = sum(n for n, trained in count if trained)
    return {"parameters": sum(n for n, _ in count) - (trainable if isinstance(model, PeftModel) else 0), "trainable": trainable}
