"""Files in parts that a stream reads one after the other: `shards(["big.jsonl"], data)` -> 160 parts of 32 MB, in the order of the rows.

Lines of plain JSONL and text, and row groups of Parquet, can be read from the middle of a file; any other file is one part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from pyarrow import parquet

from tuner.data.formats import reading
from tuner.data.formats.media import has_media
from tuner.data.formats.remote import expand, shown
from tuner.data.formats.source import BROKEN, ENCODINGS, Found, Source
from tuner.errors import TuneError
from tuner.files import is_remote
from tuner.schema.data import Data, Format, SampleBy

PART_BYTES = 32 << 20
_LINES = 1 << 20


class AnyShard(Protocol):
    """A part of a source, read from its beginning to its end."""

    @property
    def name(self) -> str:
        """As messages name it."""

    @property
    def form(self) -> Format | None:
        """The format of a file."""

    def rows(self, data: Data) -> Iterator[Found]:
        """(number in the part, row or Problem)."""

    def number(self, within: int) -> int:
        """A row's number in its file, from its number in the part."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file, or from `start` to `end` a part of it: bytes of lines, or row groups. `before`: rows of the file before it, where known."""

    path: str
    form: Format
    start: int = 0
    end: int | None = None
    before: int | None = 0

    @property
    def name(self) -> str:
        """As messages name it."""
        return shown(self.path)

    def rows(self, data: Data) -> Iterator[Found]:
        """(number in the part, row or Problem)."""
        with reading(self.path, replace(data, format=self.form), part=(self.start, self.end)) as (_, found):
            yield from found

    def number(self, within: int) -> int:
        """A row's number in the file, from its number in the part; counts the lines before the part."""
        return within + (_lines_before(self.path, self.start) if self.before is None else self.before)


def shards(files: Sequence[str], data: Data) -> list[AnyShard]:
    """All parts of the files. Raises TuneError, code 2 when one cannot be read or streamed, code 4 when a URL cannot be had."""
    found: list[AnyShard] = []
    files = [file for name in files for file in expand(name)]
    if has_media(files):
        raise TuneError("images and audio are not streamed", shown(files[0]), "leave `data.streaming` out: their files are read as needed")
    for path in files:
        found += [Shard(path=path, form=data.format)] if is_remote(path) else _parts(path, data)
    return found


def _parts(path: str, data: Data) -> list[Shard]:
    with reading(path, data) as (form, _):  # opens it, and tells its format
        pass
    whole = [Shard(path=path, form=form)]
    try:
        with open(path, "rb") as stream:
            head = stream.peek(1 << 10)
        if form is Format.parquet:
            return _row_groups(path, form) or whole
    except BROKEN:
        return whole  # what is wrong is told when it is read
    lines = form is Format.jsonl or (form is Format.text and data.sample_by is SampleBy.line)
    source = Source(name=path, path=path, data=data)
    plain = source.head(len(head)) == head and not any(head.startswith(mark) for mark, _ in ENCODINGS[1:]) and b"\n" in source.head()
    return _byte_ranges(path, form) if lines and plain else whole


def _byte_ranges(path: str, form: Format) -> list[Shard]:
    """Parts of about 32 MB that end with a line."""
    edges = [0]
    with open(path, "rb") as stream:
        size = stream.seek(0, 2)
        while edges[-1] + PART_BYTES < size:
            stream.seek(edges[-1] + PART_BYTES)
            stream.readline()
            edges.append(stream.tell())
    if edges[-1] < size or len(edges) == 1:
        edges.append(size)
    return [Shard(path=path, form=form, start=a, end=b, before=None if a else 0) for a, b in pairwise(edges)]


def _row_groups(path: str, form: Format) -> list[Shard]:
    about = parquet.ParquetFile(path).metadata
    found, start, size, before, rows = [], 0, 0, 0, 0
    for group in range(about.num_row_groups):
        size, rows = size + about.row_group(group).total_byte_size, rows + about.row_group(group).num_rows
        if size >= PART_BYTES or group == about.num_row_groups - 1:
            found.append(Shard(path=path, form=form, start=start, end=group + 1, before=before))
            start, size, before, rows = group + 1, 0, before + rows, 0
    return found


def _lines_before(path: str, end: int) -> int:
    count = 0
    with open(path, "rb") as stream:
        while left := min(_LINES, end - stream.tell()):
            count += stream.read(left).count(b"\n")
    return count
