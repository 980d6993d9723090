"""The rules of `checks.py` that are about `eval:`: metrics are known and have what they need, a gate judges what is measured."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tuner.errors import nearest
from tuner.gate import GRAMMAR, is_rule
from tuner.registry import kinds
from tuner.schema.eval import METRICS, NEEDS
from tuner.schema.recipe import Recipe

Finding = tuple[str, str, str]


def metrics(recipe: Recipe) -> Iterator[Finding]:
    """Each is known; what it reads is there, and what none reads is not."""
    wanted = recipe.eval
    for name in wanted.metrics:
        if name not in METRICS and name not in kinds("metric"):
            guess = nearest(name, [*METRICS, *kinds("metric")])
            known = f"metrics: {', '.join(METRICS)}; one of your own comes with `--extensions FILE --trust`"
            yield "eval.metrics", f"unknown metric `{name}`", f"did you mean `{guess}`?" if guess else known
        key = NEEDS.get(name)
        if key and not getattr(wanted, key):
            yield f"eval.{key}", f"the metric `{name}` needs `eval.{key}`", f"see `tune explain eval.{key}`"
    for name, key in NEEDS.items():
        if name not in wanted.metrics and getattr(wanted, key):
            yield f"eval.{key}", f"no metric reads `eval.{key}`", f"remove it, or add `{name}` to `eval.metrics`"
    if wanted.pattern:
        try:
            re.compile(wanted.pattern)
        except re.error as error:
            yield "eval.pattern", f"`eval.pattern` is no regular expression: {error}", "mend it"


def gate(recipe: Recipe) -> Iterator[Finding]:
    """Its rules can be read, and there is something to judge."""
    for rule in recipe.eval.gate:
        if not is_rule(str(rule)):
            yield "eval.gate", f"`{rule}` is no rule", GRAMMAR
    if recipe.eval.gate and not recipe.eval.enabled:
        yield "eval.gate", "`eval.gate` judges what is measured, and `eval.enabled` is false", "remove one of the two"


def benchmarks(recipe: Recipe) -> Iterator[Finding]:
    """lm-evaluation-harness asks a model that writes, some tasks."""
    wanted = recipe.eval.lm_eval
    if wanted is not None and not wanted.tasks:
        yield "eval.lm_eval.tasks", "`eval.lm_eval` names no task", "`eval.lm_eval.tasks=[arc_easy]`, say"


def judging(recipe: Recipe) -> Iterator[Finding]:
    """A judge has an address and answers to judge."""
    wanted = recipe.eval.judge
    if wanted is None:
        return
    if not wanted.url.startswith(("http://", "https://")):
        yield "eval.judge.url", f"`eval.judge.url` is no address: {wanted.url!r}", "write `http://localhost:8000/v1`, say"
    if not recipe.eval.generate:
        yield "eval.judge", "`eval.judge` chooses between answers, and `eval.generate=false` writes none", "remove one of the two"


def sampling(recipe: Recipe) -> Iterator[Finding]:
    """Several answers to a row are sampled, which needs a temperature; greedy ones would be alike."""
    wanted = recipe.eval
    if wanted.num_samples > 1 and not wanted.temperature:
        fix = "`eval.temperature=0.8`, say"
        yield "eval.num_samples", "`eval.num_samples` above 1 needs `eval.temperature`: greedy answers are all the same", fix
    if wanted.top_p < 1 and not wanted.temperature:
        yield "eval.top_p", "`eval.top_p` is of answers that are sampled, and `eval.temperature` is 0", "set it, or remove `eval.top_p`"


RULES = (sampling, metrics, gate, benchmarks, judging)
