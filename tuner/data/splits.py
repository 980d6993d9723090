"""Training rows and held-out rows of a run: from files, a database, Hub splits, or a seeded share. `split(run)` -> (train, held out)."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from typing import Any

from tuner.context import Run
from tuner.data import contamination
from tuner.data.load import Rows, hub_rows, read_rows
from tuner.data.transform import apply, ready, told
from tuner.errors import GATE, TuneError
from tuner.schema.data import Contamination, Data, Format
from tuner.schema.transforms.reading import steps

MOST_SHOWN = 5


def split(run: Run) -> tuple[Rows, Rows]:
    """(training rows, held-out rows), transformed as `data.transforms` says; what was done is in `facts`.

    Raises TuneError (code 2) when nothing is left to train on or to measure, (code 3) under `data.contamination: stop`.
    """
    train, _ = run.keep("training rows", lambda: _training(run))
    return train, held_out(run)


def held_out(run: Run) -> Rows:
    """The held-out rows, in the shape that training rows get; none is dropped."""
    rows: Rows = run.keep("held-out rows", lambda: _held_out(run))
    return rows


def facts(run: Run) -> dict[str, Any]:
    """What was done to the training rows, for data.json: {"transforms": a report a step, "contamination": …}."""
    found: dict[str, Any] = run.keep("training rows", lambda: _training(run))[1]
    return found


def _read(run: Run) -> tuple[Rows, Rows]:
    train, held_out = run.keep("rows", lambda: _split(run))
    return train, held_out


def _held_out(run: Run) -> Rows:
    return apply(_read(run)[1], steps(run.recipe.data.transforms), seed=run.recipe.seed, held_out=True)[0]


def _training(run: Run) -> tuple[Rows, dict[str, Any]]:
    """(training rows, facts)."""
    data = run.recipe.data
    rows, reports = apply(_read(run)[0], steps(data.transforms), seed=run.recipe.seed)
    for report in reports:
        run.tell(f"transform {told(report)}")
    kept_apart = held_out(run)
    if not kept_apart:
        return rows, {"transforms": reports}
    found = contamination.overlap(rows, kept_apart)
    about = contamination.summary(found, train=len(rows), held_out=len(kept_apart))
    about["done"] = data.contamination.value
    if found.rows:
        run.tell(f"contamination: {contamination.told(about)}")
        if data.contamination is Contamination.stop:
            fix = "drop them with `data.contamination=drop`, or hold out other rows"
            raise TuneError(contamination.told(about), "data.contamination", fix, code=GATE)
        if data.contamination is Contamination.drop:
            rows = _dropped(rows, set(found.rows))
    return rows, {"transforms": reports, "contamination": about}


def _dropped(rows: Rows, gone: set[int]) -> Rows:
    if len(gone) == len(rows):
        what = f"all {len(rows):,} training rows hold parts of held-out rows, and `data.contamination=drop` drops them"
        raise TuneError(what, "data.contamination", "hold out other rows, or set `data.contamination=report`")
    return rows.take(i for i in range(len(rows)) if i not in gone)


def _split(run: Run) -> tuple[Rows, Rows]:
    data, files = run.recipe.data, run.plan.files
    ready(steps(data.transforms))
    rows = hub_rows(data, data.split)[: data.limit] if data.id else read_rows(files.get("data.path", []), data, limit=data.limit)
    _tell_skipped(run, rows)
    if data.eval_path:
        held_out = read_rows(files["data.eval_path"], _of_files(data))
        _tell_skipped(run, held_out)
        return rows, held_out
    if data.eval_split:
        return rows, hub_rows(data, data.eval_split)
    chosen = _chosen(rows, data, run.recipe.seed) if data.eval_fraction else set()
    if data.eval_fraction and not 0 < len(chosen) < len(rows):
        what = f"data.eval_fraction={data.eval_fraction:g} of {len(rows)} rows holds out {len(chosen)}"
        raise TuneError(what, "data.eval_fraction", "set `data.eval_path`, another fraction, or `eval=none` with `data.eval_fraction=0`")
    return rows.take(i for i in range(len(rows)) if i not in chosen), rows.take(sorted(chosen))


def _chosen(rows: Rows, data: Data, seed: int) -> set[int]:
    """Indices of a seeded share: of all rows, of each value of a column, or of the values of a column."""
    if data.eval_group:
        values = _column(rows, data.eval_group, "data.eval_group")
        return {i for i, value in enumerate(values) if _draw(seed, value) < data.eval_fraction}
    alike: dict[str, list[int]] = {}
    for index, value in enumerate(_column(rows, data.eval_stratify, "data.eval_stratify") if data.eval_stratify else [""] * len(rows)):
        alike.setdefault(value, []).append(index)
    picked = random.Random(seed)
    return {i for indices in alike.values() for i in picked.sample(indices, round(len(indices) * data.eval_fraction))}


def _column(rows: Rows, name: str, key: str) -> list[str]:
    """A column's values as text. Raises TuneError (code 2) with the first row that lacks it."""
    for index, row in enumerate(rows):
        if name not in row:
            raise TuneError(
                f"there is no column `{name}`", rows.place(index), f"`{key}` names a column of the rows; here are {sorted(row)}"
            )
    return [json.dumps(row[name], sort_keys=True, ensure_ascii=False, default=str) for row in rows]


def _draw(seed: int, value: str) -> float:
    """A number in [0, 1) that depends on both alone."""
    digest = hashlib.blake2b(f"{seed}:{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


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
