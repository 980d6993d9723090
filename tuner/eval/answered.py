"""What an answer is worth by itself, by `eval.metrics`: `scorer(eval)(answer, reference, prompt)` -> {"exact_match": 1.0, …}."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from tuner.data.turns import Message
from tuner.eval.spans import f1
from tuner.registry import kinds
from tuner.said import MISSING, as_json, by_own, by_schema, same, same_json, same_number
from tuner.schema.eval import Eval

Score = Callable[[str, str, list[Message]], dict[str, float]]


def scorer(wanted: Eval) -> Score:
    """Each metric's scores of one answer. Raises TuneError (code 2 or 4) for a schema that is none, and where what reads it is missing."""
    found = [_metric(name, wanted) for name in wanted.metrics]

    def score(answer: str, reference: str, prompt: list[Message]) -> dict[str, float]:
        return {name: value for metric in found for name, value in metric(answer, reference, prompt).items()}

    return score


def over(each: list[dict[str, float]]) -> dict[str, float]:
    """Scores of several answers to one row: their means, and as `exact_match@4` the best of each."""
    means = {name: sum(scores[name] for scores in each) / len(each) for name in each[0]}
    return means | ({f"{name}@{len(each)}": max(scores[name] for scores in each) for name in means} if len(each) > 1 else {})


def _metric(name: str, wanted: Eval) -> Score:
    if (own := kinds("metric").get(name)) is not None:
        of = by_own(name, own)
        return lambda answer, reference, prompt: {name: of(answer, reference, prompt)}
    if name == "json":
        return lambda answer, reference, _: _fields(answer, reference)
    plain: dict[str, Callable[[], Callable[[str, str], Any]]] = {
        "exact_match": lambda: same,
        "f1": lambda: lambda answer, reference: f1(answer, [reference]),
        "numeric": lambda: same_number,
        "regex": lambda: lambda answer, _: re.search(str(wanted.pattern), answer) is not None,
        "json_schema": lambda: _first(by_schema(wanted.json_schema, at="eval.json_schema")),
    }
    if name not in plain:  # of all rows together, or of calls
        return lambda *_: {}
    of_two = plain[name]()
    return lambda answer, reference, _: {name: float(of_two(answer, reference))}


def _first(of: Callable[[str], bool]) -> Callable[[str, str], bool]:
    return lambda answer, _: of(answer)


def _fields(answer: str, reference: str) -> dict[str, float]:
    """Whether it is JSON, and each field of the reference, where that is a mapping."""
    got, want = as_json(answer), as_json(reference)
    found = {"valid_json": float(isinstance(got, dict | list))}
    if isinstance(want, dict):
        fields = got if isinstance(got, dict) else {}
        found |= {f"field/{name}": float(same_json(fields.get(name, MISSING), value)) for name, value in want.items()}
    return found
