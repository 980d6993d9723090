"""The rows of a data set: `read_rows(files, data)` from files, URLs or a database (hub.py: from the Hub).

`Rows` is a sequence of dicts which knows where each came from: `rows.place(3)` -> `train.jsonl:4`.
"""

from __future__ import annotations

import dataclasses
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

from tuner.data.formats import Row, place, reading, sql
from tuner.data.formats.detect import is_sql
from tuner.data.formats.media import add_metadata, beside, has_media, is_metadata
from tuner.data.formats.remote import expand, shown
from tuner.errors import Problem, TuneError
from tuner.files import MEDIA, caption_of, format_of
from tuner.schema.data import Data, Format, OnError

__all__ = ["Row", "Rows", "read_rows"]


class Rows(Sequence[Row]):
    """Rows with their places, and what was `skipped` under `data.on_error: skip`. A slice and `take` keep the places."""

    def __init__(self) -> None:
        self.skipped: list[Problem] = []
        self._rows: list[Row] = []
        self._sources: list[tuple[str, Format | None]] = []
        self._source, self._number = array("I"), array("Q")  # of each row: 12 bytes, where a text would take 100
        self.part = array("H")  # of each row the source in a mix that it is from, by its number

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        return self.take(range(len(self))[index]) if isinstance(index, slice) else self._rows[index]

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def place(self, index: int) -> str:
        """Where a row came from, for messages: `train.jsonl:12`, or `train.csv, row 12`."""
        return place(*self.origin(index))

    def origin(self, index: int) -> tuple[str, int, Format | None]:
        """(file or set, number in it, format) of a row."""
        name, form = self._sources[self._source[index]]
        return name, self._number[index], form

    @property
    def forms(self) -> set[Format]:
        """The formats of the files that were read; none of rows from the Hub."""
        return {form for _, form in self._sources if form is not None}

    def append(self, row: Row, origin: tuple[str, int, Format | None], *, part: int = 0) -> None:
        """Add one row with its origin."""
        name, number, form = origin
        if not self._sources or self._sources[-1] != (name, form):
            self._sources.append((name, form))
        self._rows.append(row)
        self._source.append(len(self._sources) - 1)
        self._number.append(number)
        self.part.append(part)

    def take(self, indices: Iterable[int]) -> Rows:
        """Some of the rows, in the order given; `skipped` goes along."""
        chosen, indices = Rows(), list(indices)
        chosen.skipped, chosen._sources = self.skipped, self._sources
        chosen._rows = [self._rows[i] for i in indices]
        chosen._source = array("I", (self._source[i] for i in indices))
        chosen._number = array("Q", (self._number[i] for i in indices))
        chosen.part = array("H", (self.part[i] for i in indices))
        return chosen

    def of_part(self, number: int) -> Rows:
        """The rows of one source of a mix."""
        return self if set(self.part) == {number} else self.take(i for i, part in enumerate(self.part) if part == number)

    @classmethod
    def joined(cls, found: Iterable[Rows], *, first: int = 0) -> Rows:
        """The rows of several sources one after the other, numbered as parts from `first` on."""
        whole = cls()
        for number, rows in enumerate(found, first):
            before = len(whole._sources)
            whole.skipped += rows.skipped
            whole._rows += rows._rows
            whole._sources += rows._sources
            whole._source.extend(index + before for index in rows._source)
            whole._number.extend(rows._number)
            whole.part.extend([number] * len(rows))
        return whole

    def remade(self, found: Sequence[tuple[int, Row]]) -> Rows:
        """Other rows in their place: each with the index of the row that it was made of."""
        chosen = self.take(index for index, _ in found)
        chosen._rows = [row for _, row in found]
        return chosen

    def extend(self, name: str, form: Format | None, found: Iterable[tuple[int, Row | Problem]], *, stop: bool, limit: int | None) -> None:
        """Add what is read from one source. With `stop`, raises TuneError (code 2) with the first Problem."""
        index = len(self._sources)
        self._sources.append((name, form))
        rows, sources, numbers, part = self._rows.append, self._source.append, self._number.append, self.part.append
        left = -1 if limit is None else limit - len(self)
        for number, row in found:
            if isinstance(row, Problem):
                if stop:
                    raise TuneError(problems=[row])
                self.skipped.append(row)
                continue
            rows(row)
            sources(index)
            numbers(number)
            part(0)
            left -= 1
            if left == 0:
                return


def read_rows(files: list[str], data: Data, *, limit: int | None = None) -> Rows:
    """All rows of the files, in order, or the first `limit`.

    Raises TuneError (code 2) with file and line for what cannot be read (unless it is to be skipped), or when there is no row.
    """
    rows, stop = Rows(), data.on_error is OnError.stop
    if not files and is_sql(data):
        rows.extend(sql.NAME, Format.sql, sql.read_sql(data), stop=stop, limit=limit)
    files = [file for name in files for file in expand(name)]
    about = _metadata(files, data, rows, stop=stop)
    media = {os.path.splitext(name)[0] for name in files if format_of(name) in MEDIA}
    for name in files:
        if (about is not None and is_metadata(name)) or caption_of(name) in media:
            continue
        if limit is not None and len(rows) >= limit:
            break
        with reading(name, data, about=about) as (form, found):
            rows.extend(shown(name), form, beside(name, found), stop=stop, limit=limit)
    if not rows:
        where = ", ".join(map(shown, files)) or sql.NAME
        if rows.skipped:
            first = rows.skipped[0]
            raise TuneError(f"no row could be read, {len(rows.skipped)} were skipped; the first: {first.what}", first.where, first.fix)
        raise TuneError("the dataset is empty", where, "put at least one row into it")
    return rows


def _metadata(files: list[str], data: Data, rows: Rows, *, stop: bool) -> dict[str, Row] | None:
    """Columns of media files by path, from the metadata files beside them; None where there are none."""
    tables = [name for name in files if is_metadata(name)] if has_media(files) else []
    about: dict[str, Row] = {}
    plain = dataclasses.replace(data, format=Format.auto, names=[], file_name=None)
    for name in tables:
        with reading(name, plain) as (form, found):
            for number, row in found:
                problem = row if isinstance(row, Problem) else None
                if not isinstance(row, Problem) and (what := add_metadata(about, name, row)):
                    problem = Problem(what=what, where=place(name, number, form), fix="mend or remove this row")
                if problem and stop:
                    raise TuneError(problems=[problem])
                rows.skipped += [problem] if problem else []
    return about if tables else None
