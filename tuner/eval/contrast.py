"""Runs beside each other, each against the first: `contrast([Path("outputs/one/3f2a…"), …])` -> what `tune compare --json` prints.

Two runs are compared by the same paired bootstrap as base and tuned, where both answered the same held-out rows.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner.eval.compare import compare
from tuner.eval.scores import TEXT, Formula, Scored, mean_loss, summary
from tuner.measures import lower_is_better
from tuner.results import PATH_KEYS, Results, json_lines, public, read_results
from tuner.runs import read_json
from tuner.schema.recipe import DEFAULTS

LOSSES: dict[str, Formula] = TEXT | {"chosen_loss": mean_loss}  # formulas over what rows.jsonl keeps of each row
OWN = ("name", "output_dir", "hub.repo_id")  # differ between any two runs, and say nothing
TOLD_ONLY = ("eval.enabled", "eval.examples", "eval.gate", "eval.bootstrap_samples", "eval.batch_size", "eval.metrics")
MEANT_BY = {"regex": "eval.pattern", "json_schema": "eval.json_schema", "judge_win_rate": "eval.judge", "reward": "task.rewards"}


@dataclass(frozen=True)
class Side:
    """A run among those that are compared. `label`: its name, with its key where another has the same name."""

    results: Results
    label: str

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Of each held-out row what the comparison needs, without its texts: `asked` (a hash of prompt and reference), `scores`, `loss`."""
        assert self.results.eval_rows
        return [{"asked": asked(r), "scores": r["tuned_scores"], "loss": r.get("tuned_loss")} for r in json_lines(self.results.eval_rows)]

    @property
    def base_key(self) -> str:
        """The same for two runs where base model, held-out rows and settings are the same."""
        return self.results.plan.stage("baseline").key

    def keeps(self, name: str) -> bool:
        """Whether a formula's value follows from what is kept of each row."""
        if name not in self.results.measured["tuned"] or any(row["loss"] is None for row in self.rows):
            return False
        sums = summary([Scored(prompt=[], reference="", loss_sum=r["loss"][0], tokens=r["loss"][1]) for r in self.rows], LOSSES)
        return math.isclose(sums[name], self.results.measured["tuned"][name], rel_tol=1e-6)


def asked(row: dict[str, Any]) -> str:
    """What a row of rows.jsonl asks, as a hash."""
    texts = [one["text"] for one in row.get("weighed", ())]
    return hashlib.sha256(json.dumps([row["prompt"], row["reference"], texts], sort_keys=True).encode()).hexdigest()


def sides(folders: Sequence[Path]) -> list[Side]:
    """Runs that are trained and measured, as they are told apart."""
    found = [read_results(folder) for folder in folders]
    names = [run.plan.name for run in found]
    return [Side(run, n if names.count(n) == 1 else f"{n}@{run.folder.name}") for run, n in zip(found, names, strict=True)]


def contrast(folders: Sequence[Path]) -> dict[str, Any]:
    """`{"runs": […], "metrics": {name: {"base": [a value a run], "tuned": […], "against_first": [None, {…}]}}, "keys": {key: […]}, …}`."""
    compared = sides(folders)
    first, others = compared[0], compared[1:]
    same = [[r["asked"] for r in side.rows] == [r["asked"] for r in first.rows] for side in compared]
    keys = dict(differing(compared))
    tested = [None, *(_tested(first, other, keys, place) if same[place] else {} for place, other in enumerate(others, 1))]
    metrics = {}
    for name in dict.fromkeys(metric.key for side in compared for metric in side.results.metrics):
        tuned = [side.results.measured["tuned"].get(name) for side in compared]
        found: list[dict[str, Any] | None] = [None]
        for place in range(1, len(compared)):
            before, after, given = tuned[0], tuned[place], tested[place] or {}
            both = before is not None and after is not None
            found.append({"change": after - before} | given.get(name, {"verdict": "not tested"}) if both else None)
        base = [side.results.measured["base"].get(name) for side in compared]
        metrics[name] = {"lower_is_better": lower_is_better(name), "base": base, "tuned": tuned, "against_first": found}
    return {
        "runs": [
            {"run": s.label, "folder": str(s.results.folder), "rows": len(s.rows), "same_rows": same_rows, "training": training(s.results)}
            for s, same_rows in zip(compared, same, strict=True)
        ],
        "same_base": len({side.base_key for side in compared}) == 1,
        "metrics": metrics,
        "keys": keys,
        "notes": list(_notes(compared, same, keys, metrics)),
    }


def _tested(first: Side, other: Side, keys: dict[str, list[Any]], place: int) -> dict[str, dict[str, Any]]:
    """Metric -> `{"interval": [low, high], "verdict": …}` of what both have of each row, and means the same in both."""
    before, after = list[Scored](), list[Scored]()
    others = {n for n, key in MEANT_BY.items() if any(k.startswith(key) and values[place] != values[0] for k, values in keys.items())}
    for a, b in zip(first.rows, other.rows, strict=True):
        shared = [n for n in a["scores"] if n in b["scores"] and n not in others]
        for row, into in ((a, before), (b, after)):
            loss_sum, tokens = row["loss"] or (0.0, 0)
            scores = {n: row["scores"][n] for n in shared}
            into.append(Scored(prompt=[], reference="", scores=scores, loss_sum=loss_sum, tokens=tokens))
    same_tokens = [a.tokens for a in before] == [b.tokens for b in after]  # else a token is not the same thing, and neither is its loss
    formulas = {n: f for n, f in LOSSES.items() if same_tokens and first.keeps(n) and other.keeps(n)}
    recipe = first.results.recipe
    found = compare(before, after, samples=recipe.eval.bootstrap_samples, seed=recipe.seed, formulas=formulas)
    return {n: {"interval": interval, "verdict": found["verdicts"][n]} for n, interval in found["intervals"].items()}


def differing(compared: Sequence[Side]) -> Iterator[tuple[str, list[Any]]]:
    """Recipe keys whose values are not the same in all runs, with those (None: it has no such key).

    Files are the same where their content is, whatever they are called. A default that another section does not have says nothing.
    """
    options = [DEFAULTS | side.results.plan.choices for side in compared]
    for group in dict.fromkeys(g for one in options for g in one):
        values = [one.get(group) for one in options]
        if any(value != values[0] for value in values):
            yield group, values
    given = [side.results.public_values() for side in compared]
    for key in dict.fromkeys([*(k for one in given for k in one), *(k for side in compared for k in side.results.plan.content)]):
        contents = [side.results.plan.content.get(key) for side in compared]
        values = [one.get(key) for one in given]
        if any(content != contents[0] for content in contents):
            yield key, [_with_content(value, content) for value, content in zip(values, contents, strict=True)]
        elif key in OWN or (key in PATH_KEYS and contents[0]) or all(value == values[0] for value in values):
            continue
        elif all(key in one for one in given) or any(side.results.plan.origins.get(key, "default") != "default" for side in compared):
            yield key, values
    codes = [{Path(path).name: sha256[:8] for path, sha256 in side.results.plan.extensions.items()} for side in compared]
    if any(code != codes[0] for code in codes):
        yield "--extensions", codes


def _with_content(value: Any, content: list[str] | None) -> Any:
    """A file's name with the first digits of what is in it."""
    if not content:
        return value
    digest = hashlib.sha256("".join(content).encode()).hexdigest()[:8]
    return f"{public(value)} ({digest})" if value is not None else f"({digest})"


def training(run: Results) -> dict[str, Any]:
    """What the run has recorded of its training: seconds, steps, tokens, tokens_per_s, trainable parameters."""
    stage = run.plan.stage("train")
    marker = read_json(run.folder / "stages" / f"train-{stage.key}.json")
    found = {key: marker[key] for key in ("seconds", "steps", "tokens", "trainable") if marker.get(key)}
    log = run.folder / "train_log.jsonl"
    last = max((line.get("time_s", 0.0) for line in json_lines(log)), default=0.0) if log.is_file() else 0.0
    if last and "tokens" in found:
        found["tokens_per_s"] = round(found["tokens"] / last, 1)
    return found


def _notes(compared: Sequence[Side], same: list[bool], keys: dict[str, list[Any]], metrics: dict[str, Any]) -> Iterator[str]:
    """What a reader has to know of the table."""
    first = compared[0].label
    for place, side in enumerate(compared[1:], 1):
        if not same[place]:
            yield f"{side.label} was measured on other held-out rows than {first}: no verdicts"
            continue
        settings = [k for k in keys if k.startswith("eval.") and k not in TOLD_ONLY and keys[k][place] != keys[k][0]]
        if settings:
            yield f"{side.label} was measured with other settings than {first} ({', '.join(settings)}), which may make the difference"
    untested = [n for n, m in metrics.items() if any(same[p] and f and "interval" not in f for p, f in enumerate(m["against_first"]))]
    if untested:
        yield f"not tested: {', '.join(untested)} (what they need is not kept of each row, or they are not the same thing in both runs)"
