"""What a row's label is: `values({"label": "cat"}, Problem.single_label)` -> ["cat"]; as it is learned (`number`), and said (`said`)."""

from __future__ import annotations

from typing import Any

import numpy as np

from tuner.context import Run
from tuner.data import labelled
from tuner.data.labels import Labels, named
from tuner.data.shapes import Example
from tuner.data.splits import split
from tuner.data.turns import Misfit
from tuner.schema.task import Classes, Problem


def labels_of(run: Run, *, holds: str) -> Labels:
    """The recipe's labels, else those of the training rows; of a regression one output. `holds`: what is labelled (`text`, `image`)."""
    task = run.recipe.task
    assert isinstance(task, Classes)

    def find() -> Labels:
        if task.problem is Problem.regression:
            return Labels(names=("score",))
        if task.labels:
            return Labels(names=tuple(task.labels))
        found = labelled.read(run, split(run)[0], ("labelled",), holds=holds)
        return named(value for example in found.examples for value in values(example, task.problem))

    labels: Labels = run.keep("labels", find)
    return labels


def values(example: Example, problem: Problem) -> list[Any]:
    """The labels of a row. Raises Misfit for one where a list belongs, and for a list where one does."""
    value = example.get("label", example.get("score"))
    if problem is Problem.multi_label:
        if not isinstance(value, list):
            raise Misfit(f"`task.problem=multi_label` needs a list of labels, and this is {value!r:.80}")
        return value
    if isinstance(value, list):
        raise Misfit(f"several labels, {value!r:.80}: `task.problem=multi_label` learns them")
    return [value]


def number(example: Example, problem: Problem, labels: Labels) -> Any:
    """A row's label as it is learned: a number, a row of 0 and 1, or what is measured. Raises Misfit for what is none."""
    found = values(example, problem)
    if problem is Problem.regression:
        try:
            return np.float32(float(found[0]))
        except (TypeError, ValueError) as error:
            raise Misfit(f"`task.problem=regression` needs a number, and the label is {found[0]!r:.80}") from error
    if problem is Problem.single_label:
        return labels.number(found[0])
    row = np.zeros(len(labels.names), np.float32)
    row[[labels.number(value) for value in found]] = 1
    return row


def said(label: Any, labels: Labels, problem: Problem) -> list[str]:
    """Names of what is learned of a row; a number as itself."""
    if problem is Problem.regression:
        return [f"{label:g}"]
    return [labels.names[label]] if problem is Problem.single_label else [labels.names[i] for i in np.flatnonzero(label)]
