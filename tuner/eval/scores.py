"""A held-out row and its scores (`Scored`), and their means: `summary(rows)` -> {"exact_match": 0.5, "loss": 1.2, …}.

What no row has by itself (F1, perplexity) is a formula of sums over rows: `summary(rows, {"f1": …})`, and so in every resample of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.data.turns import Message

Sums = Mapping[str, Any]  # of each column its sum over rows: a number, or an array [resamples]
Formula = Callable[[Sums], Any]


@dataclass(kw_only=True)
class Scored:
    """One held-out row: its prompt and reference, the model's answer, and the loss summed over what is trained of it.

    `samples` are several answers, where they were sampled, the first of which is `answer`. `scores` are measurements of this row, `tokens`
    what is trained of it; `counts` are what formulas sum up, 0 where a row has none.
    `detail` is what a formula over whole rows takes, which then finds those of all rows in its sums, and how many `times` each counts.
    `weighed` are answers that the row itself has, with what the model gives each (`{"name": "chosen", "text": …, "worth": −12.5}`): where
    they are compared, none is written. `liked`: whether the row says that its answer is to become likelier (None: it says nothing).
    """

    prompt: list[Message]
    reference: str
    tools: list[dict[str, Any]] | None = None
    answer: str = ""
    samples: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    loss_sum: float = 0.0
    tokens: int = 0
    counts: dict[str, float] = field(default_factory=dict)
    detail: dict[str, Any] | None = None
    weighed: list[dict[str, Any]] = field(default_factory=list)
    liked: bool | None = None


def mean_loss(sums: Sums) -> Any:
    """Loss in nats a token; NaN where no token is trained."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.float64(1) * sums["loss_sum"] / sums["tokens"]


TEXT: dict[str, Formula] = {"loss": mean_loss, "perplexity": lambda sums: np.exp(np.minimum(mean_loss(sums), 700.0))}


def columns(rows: list[Scored]) -> dict[str, NDArray[np.float64]]:
    """What formulas sum up, by name: a value a row [rows]."""
    found = {"loss_sum": np.asarray([row.loss_sum for row in rows], float), "tokens": np.asarray([row.tokens for row in rows], float)}
    for name in dict.fromkeys(name for row in rows for name in row.counts):
        found[name] = np.asarray([row.counts.get(name, 0.0) for row in rows], float)
    return found


def whole(rows: list[Scored], times: NDArray[Any]) -> dict[str, Any]:
    """The rows' details, and how many times each counts [rows], or [resamples, rows]; nothing where rows have none."""
    details = [row.detail for row in rows if row.detail is not None]
    return {"details": details, "times": times} if details else {}


def summary(rows: list[Scored], formulas: Mapping[str, Formula] = TEXT) -> dict[str, float]:
    """Means of the rows' scores, and the formulas' values."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    means = {n: sum(r.scores[n] for r in rows if n in r.scores) / sum(n in r.scores for r in rows) for n in names}
    sums: dict[str, Any] = {name: column.sum() for name, column in columns(rows).items()}
    sums |= whole(rows, np.ones(len(rows)))
    return means | {name: float(formula(sums)) for name, formula in formulas.items()}
