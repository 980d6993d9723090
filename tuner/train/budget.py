"""Whether the disk holds a training's checkpoints and its result, asked before the first step: `affordable(run, model, steps=500)`."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from torch import nn

from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.memory import STATES
from tuner.schema.adapter import Full
from tuner.schema.recipe import Recipe


def checkpoint_bytes(model: nn.Module, recipe: Recipe) -> tuple[int, int]:
    """(weights, optimizer) of one checkpoint, without its small files. With `adapter=full` what is frozen is saved too."""
    trained = [p for p in model.parameters() if p.requires_grad]
    saved = [*model.parameters()] if isinstance(recipe.adapter, Full) else trained
    states = STATES[recipe.trainer.optim] + (recipe.trainer.ema_decay is not None)
    return sum(p.numel() * p.element_size() for p in saved), round(sum(p.numel() * p.element_size() for p in trained) * states)


def copies(recipe: Recipe, steps: int) -> int:
    """Checkpoints that lie on the disk at once: those kept, the best, the one being written."""
    trainer = recipe.trainer
    best = 1 if trainer.load_best_model_at_end or trainer.early_stopping_patience else 0
    if not trainer.save_steps and not best:
        return 1  # when interrupted
    saves = 1 + math.ceil(steps / min(n for n in (trainer.save_steps, trainer.eval_steps if best else 0, steps) if n))
    return min(saves, trainer.save_total_limit + best + 1)


def affordable(run: Run, model: nn.Module, *, steps: int) -> None:
    """Raises TuneError (code 4) with what to change when the checkpoints, less those already there, and the result do not fit."""
    weights, optimizer = checkpoint_bytes(model, run.recipe)
    kept = copies(run.recipe, steps)
    there = sum(p.stat().st_size for p in (run.folder / "checkpoints").rglob("*") if p.is_file())
    needed = kept * (weights + optimizer) + weights - there
    place = next(p for p in (run.folder, *Path(run.folder).parents) if p.exists())
    free = shutil.disk_usage(place).free
    if needed <= free:
        return
    each = f"{kept} checkpoints of {_size(weights + optimizer)} at once and the result of {_size(weights)}"
    what = f"the disk is too small: {each} need {_size(needed)} more, {_size(free)} are free"
    fix = "free some space (`tune gc`), set output_dir, lower `trainer.save_total_limit`, or set `trainer.save_steps=0`"
    raise TuneError(what, str(run.folder), fix, code=ENVIRONMENT)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
