"""Tells a file's format: `detect("train.json", data)` -> Format.jsonl, when JSON lines stand under that name.

What the recipe says counts first, then marks in the content (Parquet, Arrow, tar), then the file's ending, with the layout it stands for
looked at; a file whose ending says nothing is recognised by its first lines.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Sequence

from tuner.data.formats.remote import local
from tuner.data.formats.source import BROKEN, ENCODINGS, HEAD_BYTES, Source
from tuner.errors import TuneError
from tuner.files import MEDIA, format_of
from tuner.schema.data import Data, Format

_MARKS = ((b"PAR1", Format.parquet), (b"ARROW1", Format.arrow), (b"\xff\xff\xff\xff", Format.arrow))
_TAG = re.compile(r"O|[BIESLUM]-\S+")  # IOB, IOBES and BILOU
_NAME = re.compile(r"[^\W\d][\w .-]{0,40}")
_FOREIGN = (
    (b"SQLite format 3\0", "read a database with `data.url=sqlite:///its/path` and `data.query`"),
    (b"PK\3\4", "unpack the archive, or export the sheet as CSV"),
)


def detect(path: str, data: Data) -> Format:
    """The format of a file or URL; without a path, of a database.

    Raises TuneError (code 2) with the formats' names when it cannot be told.
    """
    if not path:
        return Format.sql
    with local(path) as here:
        return detect_source(Source(name=path, path=here, data=data))


def is_sql(data: Data) -> bool:
    """Whether rows come from a database, where no path is given."""
    return data.format is Format.sql or bool(data.url or data.url_env)


def detect_source(source: Source) -> Format:
    """`detect` for a file that is here."""
    said, by_name = source.data.format, format_of(source.path)
    if said is Format.json:
        return _json_or_lines(source, Format.json)
    if said not in (Format.auto, Format.sql):
        return said
    if by_name in MEDIA:
        return Format(by_name)
    head = source.head()
    if marked := next((form for mark, form in _MARKS if head.startswith(mark)), None):
        return marked
    if head[257:262] == b"ustar":
        return Format.webdataset
    if by_name in ("json", "jsonl"):
        return _json_or_lines(source, Format(by_name))
    lines = _first_lines(head)
    found = _refined(Format(by_name), lines, source) if by_name else _sniffed(lines, source)
    if found is None:
        formats = f"set `data.format` to one of {', '.join(form for form in Format if form is not Format.auto)}"
        fix = next((fix for mark, fix in _FOREIGN if head.startswith(mark)), formats)
        raise TuneError(f"cannot tell the format of {os.path.basename(source.name)}", source.name, fix)
    return found


def _first_lines(head: bytes) -> list[str]:
    """Whole lines of a file's beginning; the only one, where it is longer."""
    encoding = next((name for mark, name in ENCODINGS if head.startswith(mark)), "utf-8")
    lines = list(io.StringIO(head.decode(encoding, errors="replace"), newline=""))
    return lines[:-1] if len(head) == HEAD_BYTES and len(lines) > 1 else lines


def _json_or_lines(source: Source, named: Format) -> Format:
    """JSON lines may stand under .json and an array under .jsonl: the first two lines that are not blank tell."""
    filled = (line.strip() for line in source.lines() if isinstance(line, str) and not line.isspace())
    try:
        first = next(filled, "")
        second = "" if first.startswith("[") or first == "{" else next(filled, "")
    except BROKEN:  # told by the reader
        return named
    if first.startswith("[") or first == "{":
        return Format.json
    if named is Format.json and second.startswith("{") and first.startswith("{") and not first.endswith(("[", ",", ":")):
        return Format.jsonl
    return named


def _refined(named: Format, lines: Sequence[str], source: Source) -> Format:
    """What the content says of a table or a text under the name that it has."""
    if named in (Format.tsv, Format.text) and _is_conll(lines):
        return Format.conll
    if named is Format.csv and _is_tab_separated(lines):
        return Format.tsv
    if named is Format.text:
        if source.data.names:
            return Format.tsv if any("\t" in line for line in lines) else Format.csv
        if _json_layout(lines) and _json_or_lines(source, Format.json) is Format.jsonl:
            return Format.jsonl
    return named


def _sniffed(lines: Sequence[str], source: Source) -> Format | None:
    filled = [line.strip() for line in lines if not line.isspace()]
    if not filled or any("\0" in line for line in filled):
        return None
    if re.match(r"<(\?xml|!--|[A-Za-z_])", filled[0]) and any("</" in line or "/>" in line for line in filled):
        return Format.xml
    if _json_layout(lines):
        return _json_or_lines(source, Format.json)
    if _is_conll(lines):
        return Format.conll
    if _is_tab_separated(lines):
        return Format.tsv
    return Format.csv if _is_comma_separated(filled) else None


def _json_layout(lines: Sequence[str]) -> bool:
    """Whether a file opens as JSON does: a mapping with a key, or a list of them."""
    return bool(re.match(r'\s*(\[\s*)?\{\s*("|\})|\s*\[\s*\]\s*$', "".join(lines[:4])[:1000]))


def _is_conll(lines: Sequence[str]) -> bool:
    """Tokens with IOB tags in the last column, in sentences set apart by blank lines; a single sentence needs a tag other than O."""
    filled = [line for line in lines if not line.isspace() and not line.startswith("-DOCSTART-")]
    columns = [line.rstrip("\r\n").split("\t" if "\t" in line else None) for line in filled]
    tagged = bool(columns) and all(len(c) > 1 and _TAG.fullmatch(c[-1]) and " " not in c[0].strip() for c in columns)
    tags = {c[-1] for c in columns if tagged}
    return "O" in tags and (len(filled) < len(lines) or len(tags) > 1)


def _is_tab_separated(lines: Sequence[str]) -> bool:
    """Tabs in the first line, as many in every other (with quoted line breaks: none or fewer), and more telling than its commas."""
    filled = [line for line in lines if not line.isspace()]
    if not filled or "\t" not in filled[0]:
        return False
    counts = {line.count("\t") for line in filled}
    return len(counts) == 1 or (any('"' in line for line in filled) and "," not in filled[0])


def _is_comma_separated(lines: Sequence[str]) -> bool:
    """A first line of names and at least one other, of as many values each."""
    try:
        rows = [row for row in csv.reader(lines, strict=True) if row]
    except csv.Error:
        return False
    return len(rows) > 1 and len(rows[0]) > 1 and len({len(row) for row in rows}) == 1 and all(map(_NAME.fullmatch, rows[0]))
