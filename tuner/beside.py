"""What is measured beside the held-out rows: general texts (`eval.general`), benchmarks (`eval.lm_eval`), a judge's choices (`eval.judge`).

`measured(run, model)` gives what the stage `baseline` keeps in a file; `join(found, before, after, …)` puts both into metrics.json.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tuner.context import Run
from tuner.eval import forgetting, harness, pairwise
from tuner.eval.scores import Scored
from tuner.runs import read_json, write_json
from tuner.train.causal import tokenizer_of

FILE = "beside.json"
Beside = dict[str, Any]


def check(run: Run) -> None:
    """Raises TuneError for texts without `text`, for benchmarks that are not known, and where who runs or judges is not there."""
    if run.plan.files.get(forgetting.KEY):
        _texts(run)
    if run.recipe.eval.lm_eval is not None:
        _harness(run)
    if run.recipe.eval.judge is not None:
        pairwise.ready(run.recipe.eval.judge)


def measured(run: Run, model: Any) -> Beside:
    """`{"general": [Scored], "lm_eval": {task: Benchmark}}`, of what the recipe asks for; empty where it is nothing."""
    found: Beside = {}
    if run.plan.files.get(forgetting.KEY):
        texts = _texts(run)
        with run.progress("general texts", len(texts)) as tick:
            found["general"] = forgetting.measured(model, tokenizer_of(run), texts, tick=tick)
    if run.recipe.eval.lm_eval is not None:
        found["lm_eval"] = _harness(run).measured(model, tokenizer_of(run), batch_size=run.recipe.eval.batch_size, tell=run.tell)
    return found


def judgement(run: Run, base: list[Scored], tuned: list[Scored]) -> dict[str, Any] | None:
    """The rows' `judge_win_rate` where the recipe names a judge, and what is told of it."""
    wanted = run.recipe.eval.judge
    if wanted is None:
        return None
    with run.progress("judgements", len(base[: wanted.limit])) as tick:
        found = pairwise.judged(base, tuned, wanted, tick=tick)
    named = "" if found["consistent"] is None else f", the same answer in both orders: {found['consistent']:.0%}"
    run.tell(f"{wanted.model} judged {found['rows']:,} rows{named}; {found['unread']:,} of its answers named none")
    return found


def keep(found: Beside, folder: Path) -> list[Path]:
    """Write it into a folder; the files, none for nothing."""
    if not found:
        return []
    general = [dataclasses.asdict(row) for row in found.get("general", [])]
    write_json(folder / FILE, {"general": general, "lm_eval": {n: dataclasses.asdict(b) for n, b in found.get("lm_eval", {}).items()}})
    return [folder / FILE]


def join(found: dict[str, Any], folder: Path, after: Beside, **options: Any) -> None:
    """Put the comparison with what was kept in a folder into that of the held-out rows. `options`: those of `compare`."""
    if not after:
        return
    before = read_json(folder / FILE)
    parts = []
    if general := after.get("general"):
        parts.append(forgetting.compared([Scored(**row) for row in before["general"]], general, **options))
    if benchmarks := after.get("lm_eval"):
        base = {name: harness.Benchmark(**values) for name, values in before["lm_eval"].items()}
        parts += harness.compared(base, benchmarks, **options)
    for part in parts:
        for name, values in part.items():
            found[name] |= values


def _texts(run: Run) -> list[str]:
    texts: list[str] = run.keep("general texts", lambda: forgetting.texts(run.plan.files[forgetting.KEY]))
    return texts


def _harness(run: Run) -> harness.Harness:
    wanted = run.recipe.eval.lm_eval
    assert wanted is not None
    made: harness.Harness = run.keep("lm_eval", lambda: harness.Harness(wanted, run.plan.files.get(harness.KEY, [])))
    return made
