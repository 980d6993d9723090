"""Readers of tables: CSV, TSV, Parquet, Arrow. `read_csv(source)` -> (1, {"text": "good", "label": "1"}), … numbered by rows.

CSV is read by RFC 4180, and values stay text. A TSV whose quotation marks are not quoting by that rule is read without quoting.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import pyarrow
from pyarrow import ipc, parquet

from tuner.data.formats.source import BROKEN, Found, Row, Source, excerpt
from tuner.errors import Problem, TuneError

csv.field_size_limit(2**31 - 1)  # a document may be longer than the standard library's 128 KiB
_Record = tuple[int, list[str] | Problem]  # the line that it begins on, and its cells
_BATCH_ROWS = 1000
_UNREADABLE = (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError)  # the last: a damaged length asks for it


def repeated(names: Iterable[str]) -> str | None:
    """A name that stands twice: one of its columns would be lost in a row."""
    return next((name for name, count in Counter(names).items() if count > 1), None)


def read_csv(source: Source) -> Iterator[Found]:
    """Records with commas, or with semicolons, as spreadsheets write where the comma is the decimal mark."""
    first = next(_unbroken(source), "")
    semicolons = isinstance(first, str) and "," not in first and ";" in first and len(source.data.names) != 1
    return _rows(source, _quoted(source, ";" if semicolons else ","))


def read_tsv(source: Source) -> Iterator[Found]:
    """Records with tabs."""
    return _rows(source, _quoted(source, "\t") if _has_quoting(source) else _plain(source))


def _rows(source: Source, records: Iterator[_Record]) -> Iterator[Found]:
    """Records under the names of `data.names`, or of the first line."""
    given, number = source.data.names, 0
    names = given
    if twice := repeated(given):
        raise TuneError(f"two columns are called {twice!r}", "data.names", "give every column a name of its own")
    for line, cells in records:
        if isinstance(cells, Problem):
            number += 1
            yield number, cells
            if not names:  # the header
                return
        elif not names:
            bare = [cell.strip() for cell in cells]
            names = cells if repeated(bare) else bare  # "prompt , completion": a space is not meant
            if twice := repeated(names):
                yield 1, source.problem(f"two columns are called {twice!r}", line=line, fix="give every column a name of its own")
                return
        elif number == 0 and cells == given:
            continue  # a header line that says what `data.names` says
        elif len(cells) == len(names):
            number += 1
            yield number, dict(zip(names, cells, strict=True))
        else:
            number += 1
            what = f"{'more' if len(cells) > len(names) else 'fewer'} values than the {len(names)} columns of "
            fix = "quote values that hold the separator or a line break"
            yield number, source.problem(what + ("`data.names`" if given else "the first line"), line=line, fix=fix)


def _quoted(source: Source, delimiter: str) -> Iterator[_Record]:
    """Records by RFC 4180: a quoted value may hold the delimiter, line breaks, and quotation marks written twice."""
    faults: list[Problem] = []
    reader = csv.reader(_texts(source, faults), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            what = (
                "the quotation mark that opens here never closes: all behind it is unread"
                if "end of data" in str(error)
                else f"not quoted by the rules: {error}"
            )
            faults.append(source.problem(what, line=line, fix='quote the whole value, and write a quotation mark inside it twice: ""'))
        if faults:
            yield line, faults[0]
            faults.clear()
        elif cells:
            yield line, cells


def _texts(source: Source, faults: list[Problem]) -> Iterator[str]:
    """Lines for the csv module, empty ones in place of what is no text."""
    for line in source.lines():
        if isinstance(line, Problem):
            faults.append(line)
            yield ""
        else:
            yield line


def _plain(source: Source) -> Iterator[_Record]:
    """Records without quoting: a line each, cut at its tabs."""
    for number, line in enumerate(source.lines(), 1):
        if isinstance(line, Problem):
            yield number, line
        elif text := line.rstrip("\r\n"):
            yield number, text.split("\t")


def _has_quoting(source: Source) -> bool:
    """Whether the quotation marks of a TSV quote. They do not where strict reading fails, or does worse than none.

    Many a TSV is written without quoting, and has values that begin with a quotation mark (SemEval's STS).
    """
    tabs, lines, marks, everything = set[int](), 0, False, False
    for line in _unbroken(source):
        if isinstance(line, str) and (text := line.rstrip("\r\n")):
            if not lines:
                everything = all(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in text.split("\t"))
            tabs.add(text.count("\t"))
            lines, marks = lines + 1, marks or '"' in text
    if not marks:
        return False
    try:
        reader = csv.reader((line for line in _unbroken(source) if isinstance(line, str)), delimiter="\t", strict=True)
        widths = Counter(len(cells) for cells in reader if cells)
    except csv.Error:
        return False
    # A "quoted" value would run over lines that are records by themselves; it does where the header says that everything is quoted.
    if len(tabs) == 1 and widths.total() != lines and not everything:
        return False
    return len(widths) == 1 or len(tabs) > 1


def _unbroken(source: Source) -> Iterator[str | Problem]:
    """The lines before a break of the compressed stream, which is told when the rows are read."""
    with suppress(*BROKEN):
        yield from source.lines()


def read_parquet(source: Source) -> Iterator[Found]:
    """Rows of a Parquet file, a batch at a time."""
    groups = None if source.end is None else range(source.start, source.end)
    return _batches(source, "Parquet", lambda stream: parquet.ParquetFile(stream).iter_batches(batch_size=_BATCH_ROWS, row_groups=groups))


def read_arrow(source: Source) -> Iterator[Found]:
    """Rows of an Arrow file (Feather, a set that `datasets` saved) or stream."""

    def batches(stream: Any) -> Iterator[Any]:
        if source.head(6) == b"ARROW1":
            file = ipc.open_file(stream)
            return (file.get_batch(i) for i in range(file.num_record_batches))
        return iter(ipc.open_stream(stream))

    return _batches(source, "Arrow", batches)


def _batches(source: Source, kind: str, opened: Callable[[Any], Iterator[Any]]) -> Iterator[Found]:
    """Rows of Arrow record batches; where they end too early, a Problem comes last."""
    number = 0
    try:
        with source.open(seekable=True) as stream:
            for batch in opened(stream):
                if twice := repeated(batch.schema.names):
                    yield number + 1, source.problem(f"two columns are called {twice!r}", fix="give every column a name of its own")
                    return
                batch.validate(full=True)  # a damaged file's offsets would lead out of the memory
                for row in _values(batch):
                    number += 1
                    yield number, source.problem(row, row=number) if isinstance(row, str) else row
    except _UNREADABLE as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        fix = "it is cut off or damaged: fetch or write it again; or it is something else: set `data.format`"
        what = f"all from here on is unread: {reason}" if number else f"cannot be read as {kind}: {reason}"
        yield number + 1, source.problem(what, row=number + 1 if number else None, fix=fix)


def _values(batch: Any) -> list[Row | str]:
    """A batch as rows; in place of one that Python has no values for, why."""
    try:
        return list(batch.to_pylist())
    except _UNREADABLE:
        pass
    rows: list[Row | str] = []
    for index in range(batch.num_rows):
        try:
            rows += batch.slice(index, 1).to_pylist()
        except _UNREADABLE as error:
            rows.append(f"a value cannot be read: {excerpt(str(error))}")
    return rows
