"""Steps that choose and order rows: `STEPS["balance"]`. What each does is said in schema/transforms/sampling.py."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tuner.data.transforms.filters import by_expression
from tuner.data.transforms.rows import key_of
from tuner.data.transforms.steps import Failed, Row, Step
from tuner.schema.transforms.sampling import Balance

Found = Iterator[tuple[int, Row]]


def _sample(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    count = min(len(rows), step.n if step.n is not None else max(1, round(len(rows) * step.fraction)))
    return ((index, rows[index]) for index in sorted(rng.sample(range(len(rows)), count)))


def _first(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    return ((index, rows[index]) for index in range(min(step.n, len(rows))))


def _balance(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    groups = defaultdict[str, list[int]](list)
    for index, row in enumerate(rows):
        groups[key_of(row.get(step.column))].append(index)
    sizes = [len(group) for group in groups.values()]
    size = (min if step.by is Balance.down else max)(sizes, default=0)
    chosen = []
    for group in groups.values():
        times, rest = divmod(size, len(group))
        chosen += group * times + rng.sample(group, rest)
    return ((index, rows[index]) for index in sorted(chosen))


def _limit_per(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    counts = Counter[str]()
    for index, row in enumerate(rows):
        key = key_of(row.get(step.column))
        counts[key] += 1
        if counts[key] <= step.n:
            yield index, row


def _shuffle(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    return ((index, rows[index]) for index in rng.sample(range(len(rows)), len(rows)))


def _sort(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    have = [i for i, row in enumerate(rows) if row.get(step.column) is not None]
    lack = [i for i, row in enumerate(rows) if row.get(step.column) is None]
    try:
        have.sort(key=lambda i: rows[i][step.column], reverse=step.descending)
    except TypeError as error:
        raise Failed(have[0], f"the values of `{step.column}` cannot be compared ({error}); `cast` makes them alike") from error
    return ((index, rows[index]) for index in have + lack)


def _repeat(rows: Sequence[Row], step: Any, rng: random.Random) -> Found:
    holds = by_expression(rows, step.where) if step.where is not None else ((i, True) for i in range(len(rows)))
    return ((index, rows[index]) for index, often in holds for _ in range(step.times if often else 1))


STEPS: dict[str, Step] = {
    "sample": _sample,
    "first": _first,
    "balance": _balance,
    "limit_per": _limit_per,
    "shuffle": _shuffle,
    "sort_by": _sort,
    "repeat": _repeat,
}
