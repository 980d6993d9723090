"""Predicted classes, scored: `scored(prompts, rows, predicted, labels, problem)` -> Scored rows; `formulas(problem, labels)`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tuner.data.classes import said
from tuner.data.labelled import LabelRow
from tuner.data.labels import Labels
from tuner.data.turns import Message
from tuner.eval import calibration
from tuner.eval.labels import correlation, counted, f1, macro_f1
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.eval.search import correlated
from tuner.schema.task import Problem


def scored(
    prompts: Sequence[Message], rows: Sequence[LabelRow], predicted: Sequence[Any], labels: Labels, problem: Problem
) -> list[Scored]:
    """Of each row what was asked, what was said and what is true; `predicted` is what `eval.labels.predict` gives."""
    found = []
    for prompt, row, (logits, loss, count) in zip(prompts, rows, predicted, strict=True):
        label = logits[0] if problem is Problem.regression else int(logits.argmax()) if problem is Problem.single_label else logits > 0
        answer, true = (said(value, labels, problem) for value in (label, row.label))
        one = Scored(prompt=[prompt], reference=", ".join(true), answer=", ".join(answer), loss_sum=loss, tokens=count)
        if problem is Problem.regression:
            one.scores = {"mae": abs(float(logits[0]) - float(row.label))}
        else:
            one.scores = {"accuracy" if problem is Problem.single_label else "exact_match": float(answer == true)}
            one.counts = counted(set(answer), set(true))
            if problem is Problem.single_label:
                one.counts |= calibration.confident(logits, right=answer == true)
            for name in {*answer, *true}:
                one.counts |= counted({name} & set(answer), {name} & set(true), f"/{name}")
        found.append(one)
    if problem is Problem.regression:
        correlated(found, [float(logits[0]) for logits, _, _ in predicted], [float(row.label) for row in rows])
    return found


def formulas(problem: Problem, labels: Labels) -> dict[str, Formula]:
    """Loss; F1 of classes and how well calibrated they are, or correlations of numbers."""
    if problem is Problem.regression:
        return {"loss": mean_loss, "pearson": correlation("value"), "spearman": correlation("rank")}
    found: dict[str, Formula] = {"loss": mean_loss, "f1_macro": macro_f1(labels.names)}
    return found | ({"f1_micro": f1} if problem is Problem.multi_label else {calibration.NAME: calibration.error})
