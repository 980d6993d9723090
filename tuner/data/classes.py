"""What a row's label is: `values({"label": "cat"}, Problem.single_label)` -> ["cat"]; as it is learned (`number`), and said (`said`)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from tuner.context import Run
from tuner.data import labelled
from tuner.data.labelled import MEND, NAMED, Found
from tuner.data.labels import Labels, finite, named, text_of
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.splits import split
from tuner.data.turns import Misfit
from tuner.schema.task import Classes, Labelled, Problem


def labels_of(run: Run, *, holds: str) -> Labels:
    """The recipe's labels, else those of the training rows; of a regression one output. `holds`: what is labelled (`text`, `image`)."""
    task = run.recipe.task
    assert isinstance(task, Classes)
    if task.problem is Problem.regression:
        return Labels(names=("score",))
    read = partial(labelled.read, run, kinds=("labelled",), holds=holds)
    return labels_in(run, read, lambda example: values(example, task.problem))


def labels_in(run: Run, read: Callable[[Rows], Found], values: Callable[[Example], list[Any]]) -> Labels:
    """The recipe's labels, else those of the training rows, once in this process. `values`: the labels of a row; Misfit where it has none.

    Raises TuneError (code 2) with the first row that has none, unless such rows are to be skipped.
    """
    task = run.recipe.task
    assert isinstance(task, Labelled)

    def find() -> Labels:
        if task.labels:
            return Labels(names=tuple(task.labels))
        _, found = labelled.numbered(read(split(run)[0]), lambda example: [text_of(value) for value in values(example)], run)
        return named(value for row in found for value in row)

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
        return np.float32(finite(found[0], "`task.problem=regression` needs a number, and the label"))
    if problem is Problem.single_label:
        return labels.number(found[0])
    row = np.zeros(len(labels.names), np.float32)
    row[[labels.number(value) for value in found]] = 1
    return row


def fix(problem: Problem) -> str:
    """What to do about a row whose label cannot be learned."""
    return MEND if problem is Problem.regression else NAMED


def said(label: Any, labels: Labels, problem: Problem) -> list[str]:
    """Names of what is learned of a row; a number as itself."""
    if problem is Problem.regression:
        return [f"{label:g}"]
    return [labels.names[label]] if problem is Problem.single_label else [labels.names[i] for i in np.flatnonzero(label)]
