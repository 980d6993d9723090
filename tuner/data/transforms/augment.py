"""What augmenting steps are made of: `augmented(make)`; `make(arguments)` gives `change(row, random)`, which may give the row as it is."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tuner.data.transforms.steps import Failed, Row, Step, draws

Change = Callable[[Row, random.Random], Row]


def augmented(make: Callable[[Any], Change], *, key: Callable[[Any, Row], Any] | None = None) -> Step:
    """A step that changes rows, or puts `copies` behind them. `key`: what of a row its random numbers depend on, else all of it."""

    def run(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
        change = make(step)
        drawn = draws(rows, rng, key=partial(key, step) if key else None)
        for index, row in enumerate(rows):
            try:
                own = next(drawn)
                chosen = own.random() < step.chance
                if step.copies or not chosen:
                    yield index, row
                made = [change(row, own) for _ in range(step.copies or 1)] if chosen else []
            except (ValueError, OSError) as error:
                raise Failed(index, str(error)) from error
            yield from ((index, new) for new in made if new is not row or not step.copies)

    return run


def content(row: Row, column: str) -> Any:
    """A file's bytes, by whatever a row has of it (path, bytes, or both as the Hub's sets have them); other values as they are.

    Raises ValueError for none, OSError for a file that cannot be read.
    """
    value = row.get(column)
    if isinstance(value, dict) and "array" not in value:
        value = value.get("bytes") or value.get("path")
    if value is None:
        raise ValueError(f"`{column}` is empty")
    return Path(value).read_bytes() if isinstance(value, str) else value


def remade(row: Row, column: str, new: io.BytesIO) -> Row:
    """The row with a file's new bytes, in the shape that it had: bytes (for a path too), or as the Hub's sets have them."""
    has = row[column]
    return row | {column: has | {"bytes": new.getvalue(), "path": None} if isinstance(has, dict) else new.getvalue()}
