"""`task: classify`: a class, several classes or a number for a text. A row is `{"text": …, "label": …}`, or has two texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import classes, labelled
from tuner.data.labelled import Found, LabelRow
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.eval.classes import formulas as class_formulas
from tuner.eval.classes import scored
from tuner.eval.labels import predict
from tuner.eval.scores import Formula, Scored
from tuner.schema.data import RowShape
from tuner.schema.task import Classify, Problem
from tuner.train import encoders
from tuner.train import labelled as common
from tuner.train.encoders import save, tokenizer_of

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]


def _task(run: Run) -> Classify:
    assert isinstance(run.recipe.task, Classify)
    return run.recipe.task


def labels_of(run: Run) -> Labels:
    """The recipe's labels, else those of the training rows; of a regression one output."""
    return classes.labels_of(run, holds="text")


def _rows(run: Run, rows: Rows, *, tick: Callable[[int], None] = lambda done: None) -> tuple[Found, list[LabelRow]]:
    problem, labels = _task(run).problem, labels_of(run)
    shape = RowShape.label if problem is Problem.regression else RowShape.auto  # a number may be a `score`
    read = labelled.read(run, rows, ("labelled",), holds="text", shape=shape)
    found, numbers = labelled.numbered(read, lambda example: classes.number(example, problem, labels), run, fix=classes.fix(problem))
    return found, list(labelled.encoded(found, numbers, tokenizer_of(run), _task(run).max_length, tick=tick))


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens, labels to numbers; audit; write what can teach."""
    with run.progress("rows prepared", len(rows)) as tick:
        found, coded = _rows(run, rows, tick=tick)
    counts = Counter(name for row in coded for name in classes.said(row.label, labels_of(run), _task(run).problem))
    common.write(run, found, coded, labels_of(run), counts, folder, sample=_segments(run, coded[0]), unit="row")


def _segments(run: Run, row: LabelRow) -> list[dict[str, Any]]:
    text = str(tokenizer_of(run).decode(row.ids.tolist()))
    said = ", ".join(classes.said(row.label, labels_of(run), _task(run).problem)) or "(none of the labels)"
    return [{"text": f"{text} → ", "trained": False}, {"text": said, "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it, and its label."""
    _, (row,) = _rows(run, rows[index : index + 1])
    counts = {"tokens": len(row.ids), "supervised_tokens": None, "truncated": row.truncated}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, row)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and have labels that the training rows have."""
    _rows(run, rows[: run.recipe.eval.limit])


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, common.ending(run, labels_of(run)))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, common.ending(run, labels_of(run)), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    learned = partial(common.objective, run, labels_of(run))
    return common.trainer(run, model, args, prepared, callbacks, learned=learned, measured=lambda rows: _rows(run, rows)[1])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    return common.probe(run, model, labels_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted label of every held-out row."""
    problem, labels = _task(run).problem, labels_of(run)
    found, coded = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out rows", len(coded)) as tick:
        predicted = predict(model, coded, common.objective(run, labels), tick=tick)
    texts = [" · ".join(str(example[name]) for name in ("text", "text_pair") if name in example) for example in found.examples]
    return scored([{"role": "user", "content": text} for text in texts], coded, predicted, labels, problem)


def formulas(run: Run) -> dict[str, Formula]:
    """Loss; F1 of classes, or correlations of numbers."""
    return class_formulas(_task(run).problem, labels_of(run))
