"""The trainer of every task that learns from token rows: `make_trainer(run, model, args, callbacks, rows=…, tokenizer=…, objective=…)`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from torch import nn
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.model.objectives import Objective
from tuner.schema.debug import Overfit
from tuner.train.together import wait
from tuner.train.trainer import TokenTrainer

Stored = TypeVar("Stored")


def make_trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    callbacks: list[TrainerCallback],
    *,
    rows: Any,
    eval_rows: Any,
    tokenizer: PreTrainedTokenizerBase,
    padding_free: bool = False,
    objective: Objective | None = None,
    fixed: int | None = None,
) -> TokenTrainer:
    """A TokenTrainer with what the recipe says of adapter, optimizer and hardware; of `debug=overfit` over the first batch alone."""
    if isinstance(run.recipe.debug, Overfit):
        rows = Subset(rows, range(min(run.recipe.trainer.batch_size, len(rows))))
    return TokenTrainer(
        model=model,
        args=args,
        adapter=run.recipe.adapter,
        optim=run.recipe.trainer.optim,
        rows=rows,
        eval_rows=eval_rows,
        tokenizer=tokenizer,
        padding_free=padding_free,
        callbacks=callbacks,
        tell=run.tell,
        sharing=run.recipe.hardware.devices_per_row,
        fixed=fixed,
        objective=objective,
    )


def validation(run: Run, written: Callable[[Path], Stored]) -> Stored | None:
    """Held-out rows that are measured while training, where some are: `written` puts them into a folder where this process leads,
    and gives them.
    """
    if not run.recipe.trainer.eval_steps:
        return None
    folder = run.folder / "validation"
    rows = written(folder) if run.leads else None
    wait()
    return written(folder) if rows is None else rows
