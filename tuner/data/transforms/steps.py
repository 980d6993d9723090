"""What the steps are made of: `texts(lambda step: str.lower)` is a step that changes texts, `kept` one that filters, `rows` one that maps.

A step takes (rows, arguments, random) and yields (index, row): an index that never comes is a row dropped, a row that is another object
than before is a row changed, and the order is theirs. Rows are never changed in place.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load

Row = dict[str, Any]
Step = Callable[[Sequence[Row], Any, random.Random], Iterable[tuple[int, Row]]]

WORDED = ("content", "value", "text", "reasoning_content")  # of a message or a part of one: what holds text
NOT_TEXT = frozenset({"id", "image", "mask", "audio", "video", "file_name", "role", "from"})  # names and paths, unless they are asked for


class Failed(Exception):
    """Why a row cannot be transformed. `index` is its number among the rows."""

    def __init__(self, index: int, what: str) -> None:
        super().__init__(what)
        self.index, self.what = index, what


def texts(make: Callable[[Any], Callable[[str], str]]) -> Step:
    """A step that changes each text by `make(arguments)`."""

    def run(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
        change = make(step)
        for index, row in enumerate(rows):
            try:
                yield index, change_texts(row, step.fields, change)
            except TimeoutError as error:
                raise Failed(index, "the regular expression takes too long on a text of this row") from error

    return run


def kept(make: Callable[[Any], Callable[[Row], bool]]) -> Step:
    """A step that keeps the rows for which `make(arguments)` holds."""

    def run(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
        keep = make(step)
        for index, row in enumerate(rows):
            try:
                if keep(row):
                    yield index, row
            except TimeoutError as error:
                raise Failed(index, "the regular expression takes too long on a text of this row") from error

    return run


def mapped(make: Callable[[Any], Callable[[Row], Row]]) -> Step:
    """A step that makes a row of each by `make(arguments)`, which raises ValueError for one that it cannot take."""

    def run(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
        change = make(step)
        for index, row in enumerate(rows):
            try:
                made = change(row)
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise Failed(index, str(error)) from error
            yield index, row if same_row(made, row) else made

    return run


def same_row(a: Row, b: Row) -> bool:
    """Whether two rows are the same; 1, 1.0 and True are equal, and not the same."""
    return a == b and list(a) == list(b) and all(type(a[k]) is type(b[k]) for k in a)


def draws(rows: Sequence[Row], rng: random.Random, *, key: Callable[[Row], Any] | None = None) -> Iterator[random.Random]:
    """Random numbers of its own for each row: the same whatever other rows there are, and others for each of several equal rows.

    `key`: what of a row they depend on (the content of a file rather than where it lies), else all of it.
    """
    seed, seen = rng.getrandbits(64), Counter[str]()
    for row in rows:
        known = _digest(json.dumps(key(row) if key else row, sort_keys=True, default=_digest).encode())
        yield random.Random(f"{seed}:{known}:{seen[known]}")
        seen[known] += 1


def _digest(value: Any) -> str:
    """What no JSON is, as text: bytes by their content, other things (a picture that the Hub decoded) by their type."""
    return hashlib.blake2b(value, digest_size=16).hexdigest() if isinstance(value, bytes) else type(value).__name__


def change_texts(row: Row, fields: Sequence[str], change: Callable[[str], str]) -> Row:
    """The row with its texts changed; the same object when none is."""
    made = row
    for name in fields or row:
        value = row.get(name)
        if isinstance(value, str):
            if not fields and name in NOT_TEXT:
                continue
            new: Any = change(value)
            same = new == value
        elif isinstance(value, list | dict):
            new = _changed(value, change, plain=bool(fields))
            same = new is value
        else:
            continue
        if not same:
            made = (dict(row) if made is row else made) | {name: new}
    return made


def _changed(value: Any, change: Callable[[str], str], *, plain: bool) -> Any:
    """A nested value with the texts of messages changed; with `plain`, texts in lists too (tokens, tags: when they are asked for)."""
    if isinstance(value, list):
        items = [change(v) if isinstance(v, str) and plain else _changed(v, change, plain=plain) for v in value]
        return value if all(a is b or (isinstance(a, str) and a == b) for a, b in zip(items, value, strict=True)) else items
    if not isinstance(value, dict):
        return value
    made = value
    for key in WORDED:
        inner = value.get(key)
        new = change(inner) if isinstance(inner, str) else _changed(inner, change, plain=False) if isinstance(inner, list) else inner
        if new != inner:
            made = (dict(value) if made is value else made) | {key: new}
    return made


def texts_of(row: Row, fields: Sequence[str] = ()) -> Iterator[str]:
    """The texts of a row, in its messages too."""
    for name in fields or row:
        value = row.get(name)
        if isinstance(value, str):
            if fields or name not in NOT_TEXT:
                yield value
        elif isinstance(value, list | dict):
            yield from _texts_in(value, plain=bool(fields))


def _texts_in(value: Any, *, plain: bool) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            if isinstance(item, str) and plain:
                yield item
            elif isinstance(item, dict):
                yield from _texts_in(item, plain=plain)
    elif isinstance(value, dict):
        for key in WORDED:
            inner = value.get(key)
            if isinstance(inner, str):
                yield inner
            elif isinstance(inner, list):
                yield from _texts_in(inner, plain=False)


def whole_text(row: Row, fields: Sequence[str] = ()) -> str:
    """All texts of a row, a line break between them."""
    return "\n".join(texts_of(row, fields))


def library(module: str, what: str) -> Any:
    """An optional library. Raises TuneError (code 4) when it is not installed."""
    try:
        return load(module)
    except ImportError as error:
        raise TuneError(f"{what} needs {module}, which is not installed", what, 'pip install "tuner[clean]"', code=ENVIRONMENT) from error
