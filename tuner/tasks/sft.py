"""`task: sft`: supervised fine-tuning on conversations. A row is `{"messages": [{"role": "user", …}, {"role": "assistant", …}]}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import conversations
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import TokenRows, write_rows
from tuner.data.streamed import stream
from tuner.eval import conversed
from tuner.eval.conversed import formulas
from tuner.eval.loss import token_loss
from tuner.eval.scores import Scored
from tuner.schema.task import Sft
from tuner.train import causal
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.make import make_trainer, validation
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # conversations whose loss is compared before saving and after loading


def _task(run: Run) -> Sft:
    assert isinstance(run.recipe.task, Sft)
    return run.recipe.task


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Render, tokenize and mask; audit; write what can teach."""
    conversations.prepare(run, rows, tokenizer_of(run), _task(run), folder)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it."""
    return conversations.shown(run, rows, index, tokenizer_of(run), _task(run))


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says and end with an answer; what measures answers is there."""
    conversed.check(run, rows, tokenizer_of(run))


def possible(run: Run) -> None:
    """Adapter, padding-free training and packing fit the model, as far as its configuration tells: no weights are read."""
    causal.possible(run, packing=_task(run).packing)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer, padding-free where the model can and the recipe lets it."""

    def written(folder: Path) -> TokenRows:
        if run.leads:
            write_rows(folder, [row for row, _ in conversed.measured(run, held_out(run), tokenizer_of(run), limit=None)])
        return TokenRows(folder)

    rows: Any = TokenRows(prepared)
    if run.recipe.data.streaming:
        rows = stream(run, tokenizer_of(run), _task(run), micro=args.per_device_train_batch_size)
    return make_trainer(
        run,
        model,
        args,
        callbacks,
        rows=rows,
        eval_rows=validation(run, written),
        tokenizer=tokenizer_of(run),
        padding_free=padding_free(run, model, packing=_task(run).packing),
        fixed=args.per_device_train_batch_size * _task(run).max_length if run.recipe.trainer.torch_compile else None,
    )


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared conversations."""
    return token_loss(model, TokenRows(run.stage_folder("prepare")).first(PROBED))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, and its generated answer scored."""
    tokenizer = tokenizer_of(run)
    return conversed.score(run, model, conversed.measured(run, rows, tokenizer, limit=run.recipe.eval.limit), tokenizer)
