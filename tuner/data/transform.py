"""Applies `data.transforms` to rows: `apply(rows, steps, seed=0)` -> (rows, what each step changed and dropped)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from typing import Any

from tuner.data.load import Rows
from tuner.data.transforms.steps import Failed, Step
from tuner.errors import ENVIRONMENT, Problem, TuneError, nearest
from tuner.registry import load
from tuner.schema.transforms import Transform

Report = dict[str, Any]
LOOKED_AT = 1000  # rows that are searched for a column


def apply(
    rows: Rows,
    transforms: Sequence[Transform],
    *,
    seed: int | str,
    held_out: bool = False,
    block: bool = False,
    where: str = "data.transforms",
) -> tuple[Rows, list[Report]]:
    """(rows, a report a step: {"name", "changed", "dropped", "added", "rows"}), every row with its place.

    `held_out` rows get the steps that shape rows, and no other: they are neither dropped, nor cut, nor put in another order.
    A `block` of a stream may lack columns, and lose all of its rows.
    Raises TuneError (code 2) for a row that a step cannot take, a column that no row has, and when no row is left.
    """
    reports: list[Report] = []
    for number, step in enumerate(transforms if rows else (), 1):
        if (held_out and not step.shapes_held_out) or not rows:
            continue
        step_place = f"{where}, step {number} ({step.kind})"
        if not held_out and not block:
            for problem in _unknown_columns(rows, step):
                raise TuneError(problem[0], step_place, problem[1])
        before = rows
        try:
            found = list(step_of(step)(before, step, random.Random(f"{seed}:{number}:{step.kind}")))
        except Failed as failed:
            fix = f"mend the row, or drop it in an earlier step ({step_place}): {str(before[failed.index])[:160]}"
            raise TuneError(failed.what, before.place(failed.index), fix) from failed
        came = {index for index, _ in found}
        changed = sum(row is not before[index] for index, row in found)
        dropped, added = len(before) - len(came), len(found) - len(came)
        if not found and not block:
            fix = f"loosen it, or look at the rows before it; the first: {str(before[0])[:160]}"
            raise TuneError(f"`{step.kind}` drops all {len(before):,} rows", step_place, fix)
        same = len(found) == len(before) and not changed and all(i == index for i, (index, _) in enumerate(found))
        rows = before if same else before.remade(found)
        reports.append({"name": step.kind, "changed": changed, "dropped": dropped, "added": added, "rows": len(rows)})
    return rows, reports


def ready(transforms: Sequence[Transform]) -> None:
    """Raises TuneError (code 4) with every library that a step needs and that is not installed."""
    missing = {module: step for step in transforms for module in step.needs if find_spec(module) is None}
    if missing:
        extras = ",".join(sorted({step.extra for step in missing.values()}))
        fix = f'pip install "tuner[{extras}]"'
        problems = [
            Problem(what=f"`{step.kind}` needs {module}, which is not installed", where="data.transforms", fix=fix)
            for module, step in missing.items()
        ]
        raise TuneError(problems=problems, code=ENVIRONMENT)


def step_of(step: Transform) -> Step:
    """The code behind a declaration."""
    steps: dict[str, Step] = load(step.impl).STEPS
    return steps[step.kind]


def told(report: Report) -> str:
    """A report as a line: `min_chars: 12 rows dropped, 488 left`."""
    done = [f"{report[what]:,} {what}" for what in ("changed", "dropped", "added") if report[what]]
    return f"{report['name']}: {', '.join(done) or 'nothing to do'}; {report['rows']:,} rows"


def _unknown_columns(rows: Rows, step: Transform) -> Iterator[tuple[str, str]]:
    """(what, fix) for each column that a step names and no row has."""
    named = step.named_columns()
    have = {name for index in range(min(len(rows), LOOKED_AT)) for name in rows[index]} if named else set()
    for name in named:
        if name not in have and not any(name in rows[i] for i in range(LOOKED_AT, len(rows))):
            guess = nearest(name, have)
            columns = f"the rows have {', '.join(sorted(have))}"
            yield f"no row has a column `{name}`", f"did you mean `{guess}`? {columns}" if guess else columns
