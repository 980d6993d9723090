"""`hardware: ddp`: PyTorch's DistributedDataParallel, through Accelerate's DistributedDataParallelKwargs."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import TrainingArguments

from tuner.schema.hardware import Ddp
from tuner.schema.recipe import Recipe

TYPES = frozenset({"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU"})  # NO: one process


def arguments(recipe: Recipe) -> dict[str, Any]:
    """Every trained parameter takes part in every step, so none is looked for."""
    hardware = recipe.hardware
    assert isinstance(hardware, Ddp)
    return {
        "ddp_find_unused_parameters": False,
        "ddp_bucket_cap_mb": hardware.bucket_cap_mb,
        "ddp_static_graph": hardware.static_graph or None,
    }


def adjust(args: TrainingArguments, recipe: Recipe) -> None:
    """Nothing: they say all."""


def loading(hardware: Ddp) -> dict[str, Any]:
    """As ever."""
    return {}


def environment(hardware: Ddp) -> dict[str, str]:
    """Nothing."""
    return {}


def whole(model: nn.Module) -> dict[str, Tensor] | None:
    """Every process has them."""
    return None
