"""Whether a causal language model is trained on rows laid end to end: `padding_free(run, model, packing=False)`."""

from __future__ import annotations

from typing import Any

from peft import PeftModel
from torch import nn

from tuner.context import Run
from tuner.errors import BAD_RECIPE, TuneError
from tuner.model import packed
from tuner.schema.trainer import Choice


def padding_free(run: Run, model: nn.Module, *, packing: bool) -> bool:
    """Decide and tell, and switch the model's attention. Raises TuneError (code 2) when asked for and not possible."""
    choice, named = run.recipe.trainer.padding_free, run.recipe.model.attn_implementation
    if choice is Choice.never:
        return False
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    reason: str | None = f"model.attn_implementation={named} was asked for" if named else None
    if run.recipe.hardware.devices_per_row > 1:
        reason = "each row is shared by several devices"
    if reason is None:
        before = causal.config._attn_implementation
        try:
            causal.set_attn_implementation(packed.ATTENTION)
            reason = packed.supported(model)
        except ValueError as error:
            reason = str(error).splitlines()[0]
        if reason is not None:
            causal.set_attn_implementation(before)
    if reason is None:
        return True
    if choice is Choice.always or packing:
        key, asked = ("trainer.padding_free", "=always") if choice is Choice.always else ("task.packing", "")
        instead = "take `model.attn_implementation` out" if named else f"`{key}={'auto' if asked else 'false'}` trains with padding"
        raise TuneError(f"{key}{asked} cannot be had: {reason}", key, instead, code=BAD_RECIPE)
    run.tell(f"training with padding: {reason}")
    return False
