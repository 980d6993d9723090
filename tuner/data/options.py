"""Options that only some formats read: `unread(parts, rows, held_out)` refuses one that no file here does, which would be passed over."""

from __future__ import annotations

from collections.abc import Sequence

from tuner.data.load import Rows
from tuner.data.mix import Part
from tuner.errors import TuneError
from tuner.schema.data import Data, Format, SampleBy, source_key

READ_FROM = {
    "names": (Format.csv, Format.tsv, Format.conll),
    "sample_by": (Format.text,),
    "record": (Format.xml,),
    "file_name": (Format.images, Format.audio),
    "query": (Format.sql,),
}


def unread(found: Sequence[Part], read: Sequence[Rows], held_out: Rows) -> None:
    """Raises TuneError (code 2) for an option of a source that no file of it reads, nor one of held-out rows."""
    for part, rows in zip(found, read, strict=True):
        forms = rows.forms | held_out.forms
        for key in _asked(part.data):
            if not forms & set(READ_FROM[key]):
                at, here = source_key(part.name, key), ", ".join(sorted(forms)) or "a set of the Hub"
                what = f"`{at}` is read from {', '.join(READ_FROM[key])}, and here is {here}"
                raise TuneError(what, at, "remove it, or set `data.format` where a file was taken for another format")


def _asked(data: Data) -> list[str]:
    given = {
        "names": data.names,
        "sample_by": data.sample_by is not SampleBy.line,
        "record": data.record,
        "file_name": data.file_name,
        "query": data.query,
    }
    return [key for key, value in given.items() if value]
