"""Training rows and held-out rows of a run: from files, a database, Hub splits, or a seeded share. `split(run)` -> (train, held out)."""

from __future__ import annotations

import dataclasses
import random

from tuner.context import Run
from tuner.data.load import Rows, hub_rows, read_rows
from tuner.errors import TuneError
from tuner.schema.data import Data, Format

MOST_SHOWN = 5


def split(run: Run) -> tuple[Rows, Rows]:
    """(training rows, held-out rows). Raises TuneError (code 2) when nothing is left to train on or to measure."""
    train, held_out = run.keep("rows", lambda: _split(run))
    return train, held_out


def _split(run: Run) -> tuple[Rows, Rows]:
    data, files = run.recipe.data, run.plan.files
    rows = hub_rows(data, data.split)[: data.limit] if data.id else read_rows(files.get("data.path", []), data, limit=data.limit)
    _tell_skipped(run, rows)
    if data.eval_path:
        held_out = read_rows(files["data.eval_path"], _of_files(data))
        _tell_skipped(run, held_out)
        return rows, held_out
    if data.eval_split:
        return rows, hub_rows(data, data.eval_split)
    count = round(len(rows) * data.eval_fraction)
    if data.eval_fraction and not 0 < count < len(rows):
        what = f"data.eval_fraction={data.eval_fraction:g} of {len(rows)} rows holds out {count}"
        raise TuneError(what, "data.eval_fraction", "set `data.eval_path`, another fraction, or `eval=none` with `data.eval_fraction=0`")
    chosen = set(random.Random(run.recipe.seed).sample(range(len(rows)), count))
    return rows.take(i for i in range(len(rows)) if i not in chosen), rows.take(sorted(chosen))


def _of_files(data: Data) -> Data:
    """Held-out files beside training rows from a database: their format is not the database's."""
    return dataclasses.replace(data, format=Format.auto) if data.format is Format.sql else data


def _tell_skipped(run: Run, rows: Rows) -> None:
    """What `data.on_error: skip` left out: counted, and the first few listed."""
    if not rows.skipped:
        return
    run.tell(f"{len(rows.skipped)} rows could not be read and are left out (data.on_error=skip):")
    for problem in rows.skipped[:MOST_SHOWN]:
        run.tell(f"  {problem.where}: {problem.what}")
    if len(rows.skipped) > MOST_SHOWN:
        run.tell(f"  … and {len(rows.skipped) - MOST_SHOWN} more: skipped.json of the prepared data has them all")
