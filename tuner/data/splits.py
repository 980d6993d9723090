"""Training rows and held-out rows of a run: from files, Hub splits, or a seeded share. `split(run)` -> (train, held out)."""

from __future__ import annotations

import random

from tuner.context import Run
from tuner.data.load import Row, find_row, hub_rows, read_rows
from tuner.errors import TuneError


def place(run: Run, row: Row, *, held_out: bool = False) -> str:
    """Where a row came from, for messages: file and line, or the Hub dataset."""
    data, files = run.recipe.data, run.plan.files
    found = files.get("data.eval_path") if held_out and data.eval_path else files.get("data.path")
    return find_row(row, found, form=data.format) if found else str(data.id)


def split(run: Run) -> tuple[list[Row], list[Row]]:
    """(training rows, held-out rows). Raises TuneError (code 2) when nothing is left to train on or to measure."""
    train, held_out = run.keep("rows", lambda: _split(run))
    return train, held_out


def _split(run: Run) -> tuple[list[Row], list[Row]]:
    data, files = run.recipe.data, run.plan.files
    rows = read_rows(files["data.path"], form=data.format) if data.path else hub_rows(data, data.split)
    rows = rows[: data.limit]
    if data.eval_path:
        return rows, read_rows(files["data.eval_path"], form=data.format)
    if data.eval_split:
        return rows, hub_rows(data, data.eval_split)
    count = round(len(rows) * data.eval_fraction)
    if data.eval_fraction and not 0 < count < len(rows):
        what = f"data.eval_fraction={data.eval_fraction:g} of {len(rows)} rows holds out {count}"
        raise TuneError(what, "data.eval_fraction", "set `data.eval_path`, another fraction, or `eval=none` with `data.eval_fraction=0`")
    chosen = set(random.Random(run.recipe.seed).sample(range(len(rows)), count))
    return [r for i, r in enumerate(rows) if i not in chosen], [r for i, r in enumerate(rows) if i in chosen]
