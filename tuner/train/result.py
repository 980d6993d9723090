"""What is left when the loop has ended: the best step (`best_of`), the model in one piece (`gathered`), its files (`write`)."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import nn

from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.schema.trainer import Precision
from tuner.train.checkpoints import PREFIX, broken
from tuner.train.strategies.base import strategy_of


class Savable(Protocol):
    """The part of a task that this needs."""

    def load(self, run: Run, *, trainable: bool) -> nn.Module:
        """The model to train."""

    def save(self, run: Run, model: Any, folder: Path) -> None:
        """Write the result."""


def best_of(run: Run, trainer: Any, model: nn.Module) -> tuple[int | None, Path | None]:
    """The best step where it is asked for; and its checkpoint, with whose weights the model leaves, where it is not the last."""
    best = trainer.state.best_global_step if run.recipe.trainer.load_best_model_at_end else None
    if not best or best == trainer.state.global_step:
        return best, None
    run.tell(f"keeping step {best}, the lowest held-out loss ({trainer.state.best_metric:.4f})")
    lowest = run.folder / "checkpoints" / f"{PREFIX}{best}"
    if reason := broken(lowest):
        fix = "delete the folder `checkpoints` beside it and run again: training starts over"
        raise TuneError(f"the checkpoint of the best step {best} cannot be used: {reason}", str(lowest), fix, code=ENVIRONMENT)
    trainer._load_from_checkpoint(str(lowest), model)
    return best, lowest


def gathered(run: Run, task: Savable, trainer: Any, model: nn.Module) -> nn.Module:
    """The model as one process holds it; where it was trained in parts, what was trained is gathered into another, by the leader."""
    parts = strategy_of(run.recipe.hardware).whole(trainer.model)
    if parts is None and run.recipe.trainer.precision is Precision.fp8:  # whose layers multiply in 8 bits: what is saved does not
        parts = {name: parameter.detach().cpu() for name, parameter in model.named_parameters() if parameter.requires_grad}
    if parts is None or not run.leads:
        return model
    whole = task.load(dataclasses.replace(run, loads_on=torch.device("cpu"), placing={}), trainable=True)
    missing = whole.load_state_dict(parts, strict=False)
    assert not missing.unexpected_keys, missing.unexpected_keys
    return whole


def write(run: Run, task: Savable, model: Any) -> list[str]:
    """Write the result beside, check that its weights can be read, then move each file to its place; returns where they are."""
    beside = run.folder / ".saving"
    shutil.rmtree(beside, ignore_errors=True)
    task.save(run, model, beside)
    for weights in beside.glob("*.safetensors"):
        with safe_open(str(weights), framework="pt") as tensors:
            assert tensors.keys()
    (beside / "README.md").unlink(missing_ok=True)  # PEFT's own card; ours is written with the metrics
    saved = sorted(beside.iterdir())
    for path in saved:
        if path.is_dir():  # of what sentence-transformers lays out
            shutil.rmtree(run.folder / path.name, ignore_errors=True)
        path.replace(run.folder / path.name)
    beside.rmdir()
    return [str(run.folder / path.name) for path in saved]
