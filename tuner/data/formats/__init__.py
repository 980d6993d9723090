"""Readers of every file format: `for number, row in read_file("train.csv.gz", data)` -> (1, {"text": "good"}), (2, Problem(…)), …

A row that cannot be read comes as a Problem in its place, and reading goes on where the format lets it; where not, the Problem comes last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tuner.data.formats import sql
from tuner.data.formats.detect import detect, detect_source
from tuner.data.formats.lines import read_conll, read_json, read_json_lines, read_text
from tuner.data.formats.media import read_audio, read_images, read_webdataset
from tuner.data.formats.remote import local, shown
from tuner.data.formats.source import BROKEN, Found, Row, Source
from tuner.data.formats.tables import read_arrow, read_csv, read_parquet, read_tsv
from tuner.data.formats.xml import read_xml
from tuner.errors import Problem, TuneError
from tuner.schema.data import Data, Format

__all__ = ["Found", "Row", "detect", "place", "read_file", "reading"]

READERS: dict[Format, Callable[[Source], Iterator[Found]]] = {
    Format.json: read_json,
    Format.jsonl: read_json_lines,
    Format.csv: read_csv,
    Format.tsv: read_tsv,
    Format.parquet: read_parquet,
    Format.arrow: read_arrow,
    Format.text: read_text,
    Format.conll: read_conll,
    Format.xml: read_xml,
    Format.webdataset: read_webdataset,
    Format.images: read_images,
    Format.audio: read_audio,
}


def place(path: str, number: int, form: Format | None) -> str:
    """Where a row stands, for a message about it: `train.jsonl:12` (line), or `train.csv, row 12` (from 1) where lines are not rows."""
    if form in (Format.images, Format.audio):
        return path
    return f"{path}:{number}" if form in (Format.jsonl, Format.text, Format.conll) else f"{path}, row {number}"


def read_file(path: str, data: Data) -> Iterator[Found]:
    """(number, row or Problem) of a file or URL (of a database without a path), as they are read. `place` says what a number means.

    Raises TuneError, code 2 when the file cannot be opened or its format not be told, code 4 when a URL cannot be had.
    """
    with reading(path, data) as (_, found):
        yield from found


@contextmanager
def reading(
    path: str, data: Data, *, about: dict[str, Row] | None = None, part: tuple[int, int | None] = (0, None)
) -> Iterator[tuple[Format, Iterator[Found]]]:
    """The format of a file and what `read_file` gives, while the file is there. `about`: columns of media files, by path.

    `part`: start and end of the part that is read, where the format can be read in parts (see shards.py).
    """
    if not path:
        yield Format.sql, sql.read_sql(data)
        return
    with local(path) as here:
        source = Source(name=shown(path), path=here, data=data, about=about, start=part[0], end=part[1])
        try:
            with open(here, "rb"):
                pass
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise TuneError(f"cannot read the file: {reason}", source.name, "check the path and its permissions") from error
        form = detect_source(source)
        yield form, _guarded(source, form)


def _guarded(source: Source, form: Format) -> Iterator[Found]:
    """What a reader finds; a stream that breaks off (a damaged .gz) becomes a last Problem."""
    number = 0
    try:
        for number, row in READERS[form](source):
            yield number, row
    except BROKEN as error:
        reason = str(error) or type(error).__name__
        where = place(source.name, number + 1, form) if number else source.name
        fix = "it is cut off or damaged: fetch or write it again"
        yield number + 1, Problem(what=f"all from here on is unread: {reason}", where=where, fix=fix)
