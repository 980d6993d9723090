"""Scores of one answer against its reference: `score("{\"a\": 1}", reference, ["json", "exact_match"])` -> {"valid_json": 1.0, …}.

What no row has by itself (F1, perplexity) is a formula of sums over rows: `summary(rows, {"f1": …})`, and so in every resample of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.data.turns import Message

MISSING = object()
Sums = Mapping[str, Any]  # of each column its sum over rows: a number, or an array [resamples]
Formula = Callable[[Sums], Any]


@dataclass(kw_only=True)
class Scored:
    """One held-out row: its prompt and reference, the model's answer, and the loss summed over what is trained of it.

    `scores` are measurements of this row, `tokens` what is trained of it; `counts` are what formulas sum up, 0 where a row has none.
    `detail` is what a formula over whole rows takes, which then finds those of all rows in its sums, and how many `times` each counts.
    `weighed` are answers that the row itself has, with what the model gives each (`{"name": "chosen", "text": …, "worth": −12.5}`): where
    they are compared, none is written. `liked`: whether the row says that its answer is to become likelier (None: it says nothing).
    """

    prompt: list[Message]
    reference: str
    tools: list[dict[str, Any]] | None = None
    answer: str = ""
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


def score(answer: str, reference: str, metrics: list[str]) -> dict[str, float]:
    """Each named metric's scores, 0.0 to 1.0. Fields are those of the reference, when it is a JSON mapping."""
    found: dict[str, float] = {}
    got, want = _parse(answer), _parse(reference)
    if "json" in metrics:
        found["valid_json"] = float(isinstance(got, dict | list))
        if isinstance(want, dict):
            fields = got if isinstance(got, dict) else {}
            found |= {f"field/{name}": float(name in fields and _same(fields[name], value)) for name, value in want.items()}
    if "exact_match" in metrics:
        same_value = want is not MISSING and got is not MISSING and _same(got, want)
        found["exact_match"] = float(answer.strip() == reference.strip() or same_value)
    return found


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def _refuse(constant: str) -> Any:
    """Python reads NaN and Infinity, JSON has neither."""
    raise ValueError(constant)


def _same(got: Any, want: Any) -> bool:
    """Equal as JSON: numbers by value, but `true` is not 1."""
    if isinstance(got, bool) or isinstance(want, bool):
        return got is want
    if isinstance(got, dict) and isinstance(want, dict):
        return got.keys() == want.keys() and all(_same(got[k], want[k]) for k in want)
    if isinstance(got, list) and isinstance(want, list):
        return len(got) == len(want) and all(map(_same, got, want))
    return bool(got == want)


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
