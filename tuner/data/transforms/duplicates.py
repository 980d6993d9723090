"""Steps that drop what is there already: `STEPS["drop_near_duplicates"]`, by MinHash (rensa). Said in schema/transforms/filters.py."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tuner.data.transforms.rows import key_of
from tuner.data.transforms.steps import Row, Step, library, whole_text
from tuner.data.words import tokens_of

HASHES, SEED = 128, 42
BATCH = 10_000


def _identity(fields: Sequence[str], *, loose: bool) -> Callable[[Row], str]:
    def loosely(value: Any) -> str:
        return " ".join(tokens_of(value)) if isinstance(value, str) else key_of(value)

    def identity(row: Row) -> str:
        part = {name: row.get(name) for name in fields} if fields else row
        return key_of({k: loosely(v) for k, v in part.items()} if loose else part)

    return identity


def _duplicates(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    seen, identity = set[str](), _identity(step.fields, loose=step.loose)
    for index, row in enumerate(rows):
        if (key := identity(row)) not in seen:
            seen.add(key)
            yield index, row


def _conflicting(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    identity, values = _identity(step.fields, loose=False), defaultdict[str, set[str]](set)
    for row in rows:
        values[identity(row)].add(key_of(row.get(step.column)))
    return ((index, row) for index, row in enumerate(rows) if len(values[identity(row)]) == 1)


def bands_for(threshold: float) -> int:
    """Bands of the index: the most rows a band (fewest false candidates) with which two rows at the threshold meet in 99 of 100 cases.

    Candidates are then compared by their whole sketches, so that many bands cost time and nothing else.
    """
    fitting = [b for b in (1, 2, 4, 8, 16, 32, 64) if 1 - (1 - threshold ** (HASHES // b)) ** b >= 0.99]
    return fitting[0] if fitting else HASHES


def _near(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    rensa = library("rensa", "drop_near_duplicates")
    index = rensa.RMinHashDeduplicator(step.threshold, HASHES, True, bands_for(step.threshold), SEED)
    for start in range(0, len(rows), BATCH):
        numbers = range(start, min(start + BATCH, len(rows)))
        sketches = rensa.RMinHash.from_token_sets([_grams(rows[n], step) for n in numbers], HASHES, SEED)
        fresh = index.add_pairs([(str(n), sketch) for n, sketch in zip(numbers, sketches, strict=True)])
        yield from ((n, rows[n]) for n, new in zip(numbers, fresh, strict=True) if new)


def _grams(row: Row, step: Any) -> list[str]:
    """Word n-grams of all texts; a shorter text is one gram. Rows without text differ by their values."""
    tokens = tokens_of(whole_text(row, step.fields))
    if not tokens:
        return [key_of(row)]
    return [" ".join(tokens[i : i + step.ngram]) for i in range(max(1, len(tokens) - step.ngram + 1))]


STEPS: dict[str, Step] = {"drop_duplicates": _duplicates, "drop_conflicting": _conflicting, "drop_near_duplicates": _near}
