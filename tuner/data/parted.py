"""Which rows are held out of those that are there: a share or a number, by a seed, by a column's values or by queries."""

from __future__ import annotations

import hashlib
import json
import random

from tuner.data.layout import query_column
from tuner.data.load import Rows
from tuner.data.mix import Part
from tuner.errors import TuneError
from tuner.proportions import apportioned
from tuner.schema.data import Data


def parted(read: list[Rows], found: list[Part], data: Data, seed: int, *, by_query: bool) -> tuple[list[Rows], list[Rows]]:
    """Of each source (training rows, held-out rows). `by_query`: a query's passages stay together.

    Raises TuneError (code 2) where none is held out, or none is left.
    """
    train, held_out, total = [], [], sum(map(len, read))
    key = f"data.eval_rows={data.eval_rows}" if data.eval_rows else f"data.eval_fraction={data.eval_fraction:g}"
    fix = "set `data.eval_path`, another fraction or number, or `eval=none` with `data.eval_fraction=0`"
    wanted = data.eval_rows or round(total * data.eval_fraction)
    if wanted >= total:
        raise TuneError(f"{key}, and there are {total} rows", key.partition("=")[0], fix)
    for part, rows, number in zip(found, read, apportioned([len(rows) for rows in read], wanted), strict=True):
        query = query_column(rows[0], part.data) if by_query and number and not (data.eval_group or data.eval_stratify) else None
        chosen = _queries(rows, query, number, seed) if query else _chosen(rows, data, number, seed) if number or data.eval_group else set()
        if len(chosen) == len(rows):
            what = f"{key} holds out all {len(rows)} rows{f' of `{part.name}`' if part.name else ''}"
            raise TuneError(what, key.partition("=")[0], fix)
        train.append(rows.take(i for i in range(len(rows)) if i not in chosen) if chosen else rows)
        held_out.append(rows.take(sorted(chosen)))
    if data.eval_fraction and not any(map(len, held_out)):
        raise TuneError(f"{key} of {total} rows holds out 0", key.partition("=")[0], fix)
    return train, held_out


def _chosen(rows: Rows, data: Data, number: int, seed: int) -> set[int]:
    """Indices of seeded rows: `number` of all, or of each value of a column its part; or the rows of a share of a column's values."""
    if data.eval_group:
        values = _column(rows, data.eval_group, "data.eval_group")
        return {i for i, value in enumerate(values) if _draw(seed, value) < data.eval_fraction}
    alike: dict[str, list[int]] = {}
    for index, value in enumerate(_column(rows, data.eval_stratify, "data.eval_stratify") if data.eval_stratify else [""] * len(rows)):
        alike.setdefault(value, []).append(index)
    picked, numbers = random.Random(seed), apportioned([len(indices) for indices in alike.values()], number)
    return {i for indices, count in zip(alike.values(), numbers, strict=True) for i in picked.sample(indices, count)}


def _queries(rows: Rows, query: str, number: int, seed: int) -> set[int]:
    """Indices of all rows of some queries, about `number` rows: a query whose passages are on both sides is ranked among few."""
    names = sorted(set(values := _column(rows, query, "data.columns")))
    picked = set(random.Random(seed).sample(names, max(1, round(len(names) * number / len(rows)))))
    return {i for i, value in enumerate(values) if value in picked}


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
    return int.from_bytes(hashlib.blake2b(f"{seed}:{value}".encode("utf-8", "surrogatepass"), digest_size=8).digest()) / 2**64
