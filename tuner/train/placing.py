"""Where `hardware.micro_batch_size` is left to us: `placed(run, shape, length)` gives the recipe with what fits, and says so."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from tuner.capacity import Capacity, capacity
from tuner.context import Run
from tuner.data.store import Stored
from tuner.dimensions import shape_of
from tuner.memory import with_trainer
from tuner.model.load import load_config
from tuner.placement import choose
from tuner.schema.recipe import Recipe
from tuner.schema.task import Embed
from tuner.schema.vision import Vlm


def dimensions(run: Run) -> dict[str, Any] | None:
    """The model's dimensions, of one that sees those of its language model, which is most of it; None where they are no language model's.

    Raises TuneError (code 4) where its configuration cannot be had.
    """
    if not run.recipe.task.planned and not isinstance(run.recipe.task, Vlm):
        return None
    return shape_of(load_config(run.recipe.model, progress=run.tell).get_text_config().to_dict())


def longest(rows: Stored, limit: int) -> int:
    """Tokens of the longest row; `limit` for packs, which are full, and where none is there yet."""
    if rows.packs is not None or not len(rows.ends):
        return limit
    return int(np.diff(rows.ends, prepend=0).max())


def placed(run: Run, shape: dict[str, Any] | None, length: int) -> Recipe:
    """The recipe with micro-batch and recomputation chosen; as it is where they are written, or sizes are not known."""
    recipe = run.recipe
    if isinstance(recipe.task, Embed) and not recipe.hardware.micro_batch_size:  # rows learn from those beside them: as many as there are
        share = recipe.trainer.batch_size // max(1, run.world)
        return dataclasses.replace(recipe, hardware=dataclasses.replace(recipe.hardware, micro_batch_size=share))
    if recipe.hardware.micro_batch_size or shape is None:
        return recipe
    place = capacity(recipe.hardware)
    if run.device.type == "cuda" and recipe.hardware.memory_gb is None:
        total = torch.cuda.get_device_properties(run.device).total_memory
        place = Capacity(bytes=total, cpu=False, source="this GPU")
    chosen = choose(recipe, shape, length=length, place=place, processes=run.world)
    if chosen is None:
        return recipe
    run.tell(f"memory plan: {chosen.said}")
    placed = with_trainer(recipe, activation_checkpointing=chosen.activation_checkpointing)
    return dataclasses.replace(placed, hardware=dataclasses.replace(recipe.hardware, micro_batch_size=chosen.micro_batch))
