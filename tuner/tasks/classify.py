"""`task: classify`: a class, several classes or a number for a text. A row is `{"text": …, "label": …}`, or has two texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.labelled import Found, LabelRow
from tuner.data.labels import Labels, named
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.splits import split
from tuner.data.turns import Misfit
from tuner.eval.labels import correlation, counted, f1, macro_f1, predict
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.eval.search import correlated
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

    def find() -> Labels:
        if _task(run).problem is Problem.regression:
            return Labels(names=("score",))
        if _task(run).labels:
            return Labels(names=tuple(_task(run).labels))
        found = labelled.read(run, split(run)[0], ("labelled",))
        return named(value for example in found.examples for value in _values(example, _task(run).problem))

    labels: Labels = run.keep("labels", find)
    return labels


def _values(example: Example, problem: Problem) -> list[Any]:
    """The labels of a row."""
    value = example.get("label", example.get("score"))
    if problem is Problem.multi_label:
        if not isinstance(value, list):
            raise Misfit(f"`task.problem=multi_label` needs a list of labels, and this is {value!r:.80}")
        return value
    if isinstance(value, list):
        raise Misfit(f"several labels, {value!r:.80}: `task.problem=multi_label` learns them")
    return [value]


def _number(example: Example, problem: Problem, labels: Labels) -> Any:
    """A row's label as it is learned: a number, a row of 0 and 1, or what is measured."""
    values = _values(example, problem)
    if problem is Problem.regression:
        try:
            return np.float32(float(values[0]))
        except (TypeError, ValueError) as error:
            raise Misfit(f"`task.problem=regression` needs a number, and the label is {values[0]!r:.80}") from error
    if problem is Problem.single_label:
        return labels.number(values[0])
    row = np.zeros(len(labels.names), np.float32)
    row[[labels.number(value) for value in values]] = 1
    return row


def _rows(run: Run, rows: Rows, *, tick: Callable[[int], None] = lambda done: None) -> tuple[Found, list[LabelRow]]:
    problem, labels = _task(run).problem, labels_of(run)
    found, numbers = labelled.numbered(labelled.read(run, rows, ("labelled",)), lambda example: _number(example, problem, labels), run)
    return found, list(labelled.encoded(found, numbers, tokenizer_of(run), _task(run).max_length, tick=tick))


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens, labels to numbers; audit; write what can teach."""
    with run.progress("rows prepared", len(rows)) as tick:
        found, coded = _rows(run, rows, tick=tick)
    counts = Counter(name for row in coded for name in _said(row.label, labels_of(run), _task(run).problem))
    common.write(run, found, coded, labels_of(run), counts, folder, sample=_segments(run, coded[0]), unit="row")


def _said(label: Any, labels: Labels, problem: Problem) -> list[str]:
    """Names of what is learned of a row; a number as itself."""
    if problem is Problem.regression:
        return [f"{label:g}"]
    return [labels.names[label]] if problem is Problem.single_label else [labels.names[i] for i in np.flatnonzero(label)]


def _segments(run: Run, row: LabelRow) -> list[dict[str, Any]]:
    text = str(tokenizer_of(run).decode(row.ids.tolist()))
    said = ", ".join(_said(row.label, labels_of(run), _task(run).problem)) or "(none of the labels)"
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
    return common.trainer(run, model, args, prepared, callbacks, labels=labels_of(run), measured=lambda run, rows: _rows(run, rows)[1])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    return common.probe(run, model, labels_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted label of every held-out row."""
    problem, labels = _task(run).problem, labels_of(run)
    found, coded = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out rows", len(coded)) as tick:
        predicted = predict(model, coded, common.objective(run, labels), tick=tick)
    scored = []
    for example, row, (logits, loss, count) in zip(found.examples, coded, predicted, strict=True):
        text = " · ".join(str(example[name]) for name in ("text", "text_pair") if name in example)
        label = logits[0] if problem is Problem.regression else int(logits.argmax()) if problem is Problem.single_label else logits > 0
        said, true = (_said(value, labels, problem) for value in (label, row.label))
        one = Scored(
            prompt=[{"role": "user", "content": text}], reference=", ".join(true), answer=", ".join(said), loss_sum=loss, tokens=count
        )
        if problem is Problem.regression:
            one.scores = {"mae": abs(float(logits[0]) - float(row.label))}
        else:
            one.scores = {"accuracy" if problem is Problem.single_label else "exact_match": float(said == true)}
            one.counts = counted(set(said), set(true))
            for name in {*said, *true}:
                one.counts |= counted({name} & set(said), {name} & set(true), f"/{name}")
        scored.append(one)
    if problem is Problem.regression:
        correlated(scored, [float(logits[0]) for logits, _, _ in predicted], [float(row.label) for row in coded])
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss; F1 of classes, or correlations of numbers."""
    problem, labels = _task(run).problem, labels_of(run)
    if problem is Problem.regression:
        return {"loss": mean_loss, "pearson": correlation("value"), "spearman": correlation("rank")}
    found: dict[str, Formula] = {"loss": mean_loss, "f1_macro": macro_f1(labels.names)}
    return found | ({"f1_micro": f1} if problem is Problem.multi_label else {})
