"""Scores of one answer against its reference: `score("{\"a\": 1}", reference, ["json", "exact_match"])` -> {"valid_json": 1.0, …}."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

from tuner.data.turns import Message

MISSING = object()


@dataclass(kw_only=True)
class Scored:
    """One held-out row: its prompt and reference, the model's answer, and the loss summed over its trained tokens."""

    prompt: list[Message]
    reference: str
    tools: list[dict[str, Any]] | None = None
    answer: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    loss_sum: float = 0.0
    tokens: int = 0


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


def summary(rows: list[Scored]) -> dict[str, float]:
    """Means over rows; the loss is per trained token (nats), its exponential the perplexity."""
    names = list(dict.fromkeys(name for row in rows for name in row.scores))
    means = {n: sum(r.scores[n] for r in rows if n in r.scores) / sum(n in r.scores for r in rows) for n in names}
    tokens = sum(r.tokens for r in rows)
    loss = sum(r.loss_sum for r in rows) / tokens if tokens else math.nan
    return means | {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
