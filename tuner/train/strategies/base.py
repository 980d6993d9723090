"""What a strategy can say; what it says here is what one process on one device needs: `strategy_of(recipe.hardware).arguments(recipe)`."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn
from transformers import TrainingArguments

from tuner.registry import load
from tuner.schema.hardware import Hardware
from tuner.schema.recipe import Recipe

PLAIN = frozenset({"NO", "MULTI_CPU", "MULTI_GPU", "MULTI_XPU"})  # Accelerate's words for whole models; NO: one process


class Strategy:
    """How a model lies on devices. A variant of `hardware` with an `impl` has its own."""

    def types(self, hardware: Any) -> frozenset[str]:
        """What Accelerate may call it (`DistributedType`)."""
        return PLAIN

    def arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Keyword arguments of TrainingArguments. Raises TuneError (code 4) where a package is missing."""
        return {}

    def adjust(self, args: TrainingArguments, recipe: Recipe) -> None:
        """What those cannot say."""

    def environment(self, hardware: Any) -> dict[str, str]:
        """Variables that must be set before a model is loaded."""
        return {}

    def loading(self, hardware: Any) -> dict[str, Any]:
        """What `from_pretrained` is told of devices."""
        return {}

    def whole(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The trained parameters by name, gathered on the CPU (every process must call it); None where every process has them."""
        return None


def strategy_of(hardware: Hardware) -> Strategy:
    """The one that a recipe chooses."""
    return cast(Strategy, load(hardware.impl).STRATEGY) if hardware.impl else Strategy()
