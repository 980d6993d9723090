"""`hardware: ddp`: PyTorch's DistributedDataParallel, through Accelerate's DistributedDataParallelKwargs."""

from __future__ import annotations

from typing import Any

from tuner.schema.hardware import Ddp
from tuner.schema.recipe import Recipe
from tuner.train.strategies.base import Strategy


class Copies(Strategy):
    """The whole model on each device."""

    def arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Every trained parameter takes part in every step, so none is looked for."""
        hardware = recipe.hardware
        assert isinstance(hardware, Ddp)
        return {
            "ddp_find_unused_parameters": False,
            "ddp_bucket_cap_mb": hardware.bucket_cap_mb,
            "ddp_static_graph": hardware.static_graph or None,
        }


STRATEGY = Copies()
