"""Predicted labels, and what they are worth: `predict(model, rows, objective)` -> outputs and loss of each row; formulas of counts.

A class by itself is counted as right (`tp`), wrongly said (`fp`), missed (`fn`); F1 is 2 tp / (2 tp + fp + fn), 0 where there is nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from tuner.data.labelled import LabelRow
from tuner.eval.scores import Formula, Sums
from tuner.model.objectives import Batch, Objective

BATCH_TOKENS = 8192


@torch.no_grad()
def predict(
    model: nn.Module, rows: Sequence[LabelRow], objective: Objective, *, tick: Callable[[int], None] = lambda done: None
) -> list[tuple[NDArray[np.float32], float, int]]:
    """Of each row the head's outputs ([labels], or [tokens, labels]), its summed loss, and how many labels that is of."""
    device, found = next(model.parameters()).device, dict[int, tuple[NDArray[np.float32], float, int]]()
    for chosen in _alike(rows):
        batch = objective.collate([{"rows": [rows[i].item]} for i in chosen])
        batch = {name: value.to(device) for name, value in batch.items() if name != "filler"}
        logits = objective.outputs(model, batch)
        for place, index in enumerate(chosen):
            one: Batch = {name: value[place : place + 1] for name, value in batch.items()}
            loss = objective.loss(_Known(logits[place : place + 1]), one, 0.0)
            outputs = logits[place, : len(rows[index].ids)] if logits.ndim == 3 else logits[place]
            found[index] = (outputs.cpu().numpy(), float(loss), int(objective.count(one)))
        tick(len(found))
    return [found[index] for index in range(len(rows))]


class _Known(nn.Module):
    """A model whose outputs are known."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits, self.start_logits, self.end_logits = logits, logits[..., 0], logits[..., -1]

    def forward(self, **inputs: Any) -> _Known:
        return self


def _alike(rows: Sequence[LabelRow]) -> list[list[int]]:
    """Indices of rows of like length, as many as so many tokens have room for."""
    batches: list[list[int]] = []
    for index in sorted(range(len(rows)), key=lambda i: -rows[i].size):
        if not batches or (len(batches[-1]) + 1) * rows[batches[-1][0]].size > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    return batches


def counted(said: set[Any], true: set[Any], name: str = "") -> dict[str, float]:
    """`tp`, `fp`, `fn` of one row, and of each kind in it where things have a kind: a class is its own, an entity's is its last part."""
    found = {f"tp{name}": len(said & true), f"fp{name}": len(said - true), f"fn{name}": len(true - said)}
    return {key: float(count) for key, count in found.items() if count}


def f1(sums: Sums, name: str = "") -> Any:
    """F1 of what was counted under a name."""
    right, wrong = sums.get(f"tp{name}", 0.0), sums.get(f"fp{name}", 0.0) + sums.get(f"fn{name}", 0.0)
    return _ratio(2 * right, 2 * right + wrong)


def macro_f1(names: Sequence[str]) -> Formula:
    """The mean of the classes' F1: of those that are there, or were said to be."""

    def mean(sums: Sums) -> Any:
        values = [f1(sums, f"/{name}") for name in names]
        there = [_any(sums, f"/{name}") for name in names]
        return _ratio(sum(v * t for v, t in zip(values, there, strict=True)), sum(there))

    return mean


def precision(sums: Sums) -> Any:
    """Of what was said, the share that is right."""
    return _ratio(sums.get("tp", 0.0), sums.get("tp", 0.0) + sums.get("fp", 0.0))


def recall(sums: Sums) -> Any:
    """Of what is there, the share that was said."""
    return _ratio(sums.get("tp", 0.0), sums.get("tp", 0.0) + sums.get("fn", 0.0))


def pairs(said: NDArray[Any], true: NDArray[Any], name: str) -> list[dict[str, float]]:
    """What a correlation is made of, a row each."""
    return [
        {f"{name}/{k}": float(v) for k, v in {"x": x, "y": y, "xx": x * x, "yy": y * y, "xy": x * y}.items()}
        for x, y in zip(said, true, strict=True)
    ]


def correlation(name: str) -> Formula:
    """Pearson's of the pairs counted under a name; of ranks it is Spearman's. 0 where either is the same everywhere."""

    def of(sums: Sums) -> Any:
        n = sums["tokens"]
        x, y, xx, yy, xy = (np.asarray(sums[f"{name}/{k}"]) for k in ("x", "y", "xx", "yy", "xy"))
        spread = np.maximum(n * xx - x * x, 0) * np.maximum(n * yy - y * y, 0)
        return _ratio(n * xy - x * y, np.sqrt(spread), least=1e-9)

    return of


def _any(sums: Sums, name: str) -> Any:
    return np.asarray(sum(np.asarray(sums.get(f"{key}{name}", 0.0)) for key in ("tp", "fp", "fn"))) > 0


def _ratio(part: Any, whole: Any, *, least: float = 0.0) -> Any:
    part, whole = np.asarray(part, float), np.asarray(whole, float)
    return np.where(whole > least, part / np.where(whole > least, whole, 1.0), 0.0)
