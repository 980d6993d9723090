"""`task: distil`: a student learns what a teacher finds likely. Rows are conversations, as for `sft`; `task: {teacher: qwen3-8b}`."""

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
from tuner.eval.loss import row_divergences, token_loss
from tuner.eval.scores import Formula, Scored
from tuner.model.distilled import load_teacher, of_teacher, same_tokens, teaching
from tuner.schema.distil import Distil
from tuner.train import causal
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.make import make_trainer, validation
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # conversations whose loss is compared before saving and after loading


def _task(run: Run) -> Distil:
    assert isinstance(run.recipe.task, Distil)
    return run.recipe.task


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Render, tokenize and mask; audit; write what can teach."""
    conversations.prepare(run, rows, tokenizer_of(run), _task(run), folder)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as both models see it."""
    return conversations.shown(run, rows, index, tokenizer_of(run), _task(run))


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says and end with an answer; the teacher has the student's tokens."""
    same_tokens(run, tokenizer_of(run))
    conversed.check(run, rows, tokenizer_of(run))


def possible(run: Run) -> None:
    """The adapter fits the student, and the teacher has its tokens: no weights are read."""
    same_tokens(run, tokenizer_of(run))
    causal.possible(run, packing=_task(run).packing)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer whose objective asks the teacher; that is no part of what is trained, or saved."""

    def written(folder: Path) -> TokenRows:
        if run.leads:
            write_rows(folder, [row for row, _ in conversed.measured(run, held_out(run), tokenizer_of(run), limit=None)])
        return TokenRows(folder)

    rows: Any = TokenRows(prepared)
    if run.recipe.data.streaming:
        rows = stream(run, tokenizer_of(run), _task(run), micro=args.per_device_train_batch_size)
    packing = _task(run).packing
    teaches, free = teaching(run, model, padding_free=padding_free(run, model, packing=packing), packing=packing)
    learned = of_teacher(_task(run), tokenizer_of(run), teaches, padding_free=free)
    options: dict[str, Any] = {"tokenizer": tokenizer_of(run), "padding_free": free, "objective": learned}
    return make_trainer(run, model, args, callbacks, rows=rows, eval_rows=validation(run, written), **options)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared conversations."""
    return token_loss(model, TokenRows(run.stage_folder("prepare")).first(PROBED))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, its generated answer scored, and how far the student is from the teacher."""
    tokenizer = tokenizer_of(run)
    pairs = conversed.measured(run, rows, tokenizer, limit=run.recipe.eval.limit)
    scored = conversed.score(run, model, pairs, tokenizer)
    with run.progress("distance from the teacher", len(pairs)) as tick:
        found = row_divergences(model, load_teacher(run), [tokens for tokens, _ in pairs], tick=tick)
    for row, (away, _) in zip(scored, found, strict=True):
        row.counts["teacher_kl"] = away
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """KL(teacher ‖ student) in nats a token, beside what `sft` measures."""
    return {"teacher_kl": lambda sums: sums["teacher_kl"] / sums["tokens"]} | conversed.formulas(run)
