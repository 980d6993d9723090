"""Rules that a result meets before it is published: `judged(["exact_match > base + 0.05"], measured)` -> a Judgement of each.

A rule is a measurement, `<`, `<=`, `>` or `>=`, and a value: a number, `base`, or `base` with a number added, taken away or multiplied
(`loss < base * 0.9`). Or it asks the interval: `exact_match is better`, `loss is not worse`.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.errors import GATE, Problem, TuneError, nearest
from tuner.measures import figure
from tuner.plan import Plan
from tuner.runs import read_json

GRAMMAR = "write `exact_match > base + 0.05`, `loss < 1.2`, `f1 is better` or `loss is not worse`"
_NUMBER = r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?"
_COMPARES = re.compile(rf"(\S.*?)\s*(<=|>=|<|>)\s*(?:(base)\s*(?:([-+*])\s*({_NUMBER}))?|({_NUMBER}))")
_ASKS = re.compile(r"(\S.*?)\s+is\s+(better|not\s+worse)")
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """A rule, whether it holds, and what was measured, in words."""

    rule: str
    holds: bool
    said: str


def is_rule(rule: str) -> bool:
    """Whether it is written as a rule is."""
    return bool(_COMPARES.fullmatch(rule.strip()) or _ASKS.fullmatch(rule.strip()))


def judged(rules: Iterable[str], measured: dict[str, Any]) -> list[Judgement]:
    """Each rule, by what metrics.json holds (`base`, `tuned`, `verdicts`). What was not measured, or is no number, holds no rule."""
    return [_judged(rule.strip(), measured) for rule in rules]


def hold(plan: Plan) -> None:
    """Raises TuneError (code 3) with every rule of `eval.gate` that the plan's evaluation does not meet."""
    failed = [judgement for judgement in of_plan(plan) if not judgement.holds]
    fix = "nothing is published; the run stays as it is: train on, or change the rule"
    if failed:
        raise TuneError(
            problems=[Problem(what=f"`{j.rule}` does not hold: {j.said}", where="eval.gate", fix=fix) for j in failed], code=GATE
        )


def of_plan(plan: Plan) -> list[Judgement]:
    """The rules of a plan by its own evaluation; none before that is done."""
    rules = plan.load_recipe().eval.gate
    if not rules or not plan.has("evaluate") or not plan.stage("evaluate").done:
        return []
    return judged(rules, read_json(Path(plan.folder) / "eval" / plan.stage("evaluate").key / "metrics.json"))


def _judged(rule: str, measured: dict[str, Any]) -> Judgement:
    asks, compares = _ASKS.fullmatch(rule), _COMPARES.fullmatch(rule)
    assert asks or compares, rule
    name = (asks or compares).group(1)  # type: ignore[union-attr]
    if name not in measured["tuned"]:
        near = nearest(name, measured["tuned"])
        meant = f"did you mean `{near}`?" if near else f"measured are {', '.join(measured['tuned'])}"
        return Judgement(rule=rule, holds=False, said=f"{name} was not measured; {meant}")
    tuned, base = measured["tuned"][name], measured["base"].get(name, math.nan)
    if asks:
        verdict = measured["verdicts"].get(name, "not tested")
        holds = verdict == "better" if asks.group(2) == "better" else verdict in ("better", "cannot tell")
        return Judgement(rule=rule, holds=holds, said=f"base {figure(base)}, tuned {figure(tuned)}: {verdict}")
    assert compares
    sign, of_base, change, by, number = compares.groups()[1:]
    bound = float(number) if number else base if change is None else _OPERATORS[change](base, float(by))
    said = f"tuned {figure(tuned)}" + (f", {of_base}{f' {change} {by}' if change else ''} is {figure(bound)}" if of_base else "")
    return Judgement(rule=rule, holds=bool(_OPERATORS[sign](tuned, bound)), said=said)
