"""Reads raw rows: `read_rows(files)` from JSON, JSONL, CSV, TSV and Parquet, `hub_rows(data, split)` from a Hub dataset.

A broken row is named with file and line. Rows are plain dicts; nothing is copied twice.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.errors import ENVIRONMENT, TuneError
from tuner.files import ENDINGS
from tuner.registry import load
from tuner.schema.data import Data, Format

Row = dict[str, Any]


def read_rows(files: list[str], *, form: Format = Format.auto) -> list[Row]:
    """All rows of the files, in order. Raises TuneError (code 2) with file and line for what is not a row, or when there is none."""
    rows: list[Row] = []
    for name in files:
        path = Path(name)
        kind = ENDINGS.get(path.suffix.lower()) if form is Format.auto else form.value
        if kind is None:
            raise TuneError(
                f"cannot tell the format of {path.name}",
                str(path),
                f"set `data.format` to one of {', '.join(f for f in Format if f is not Format.auto)}",
            )
        try:
            rows += _READERS[kind](path)
        except UnicodeDecodeError as error:
            raise TuneError(f"not UTF-8 text: {error.reason} at byte {error.start}", str(path), "save the file as UTF-8") from error
        except OSError as error:
            raise TuneError(f"cannot read the file: {error.strerror}", str(path), "check the path and its permissions") from error
    if not rows:
        raise TuneError("the dataset is empty", ", ".join(files), "put at least one row into it")
    return rows


def find_row(row: Row, files: list[str], *, form: Format = Format.auto) -> str:
    """Where a row stands, for a message about it: `train.jsonl:12`, or `train.csv, row 12` (counted from 1) where lines are not rows."""
    for name in files:
        path = Path(name)
        kind = ENDINGS.get(path.suffix.lower()) if form is Format.auto else form.value
        if kind == "jsonl":
            with path.open(encoding="utf-8-sig") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip() and json.loads(line) == row:
                        return f"{name}:{number}"
        for number, other in enumerate(_READERS[str(kind)](path), 1):
            if other == row:
                return f"{name}, row {number}"
    return ", ".join(files)


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _row(_parse(line, path, number), f"{path}:{number}")


def _json_array(path: Path) -> Iterator[Row]:
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] == "{" and text.count("\n") > 1 and text.lstrip().splitlines()[0].rstrip().endswith("}"):
        yield from _json_lines(path)  # JSON lines under the name .json
        return
    if not text.strip():
        return
    values = _parse(text, path, 1)
    if isinstance(values, dict):
        lists = [v for v in values.values() if isinstance(v, list)]
        values = lists[0] if len(lists) == 1 else [values]
    for index, value in enumerate(values):
        yield _row(value, f"{path}, row {index + 1}")


def _parse(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{path}:{line + error.lineno - 1}"
        shown = text.splitlines()[error.lineno - 1][:120] if text.strip() else ""
        raise TuneError(f"not valid JSON: {error.msg} (column {error.colno}): {shown}", where, "mend or remove this row") from error


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise TuneError(f"a row is a mapping of columns, not {type(value).__name__}: {str(value)[:80]}", where, "mend or remove this row")
    return value


def _separated(delimiter: str, path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # a document may be longer than the standard library's 128 KiB
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=delimiter)
        for row in reader:
            if None in row or None in row.values():
                what = f"{'more' if None in row else 'fewer'} values than the {len(reader.fieldnames or [])} columns of the first line"
                raise TuneError(what, f"{path}:{reader.line_num}", "quote values that hold the separator or a line break")
            yield dict(row)


def _csv(path: Path) -> Iterator[Row]:
    return _separated(",", path)


def _tsv(path: Path) -> Iterator[Row]:
    return _separated("\t", path)


def _parquet(path: Path) -> Iterator[Row]:
    pyarrow = load("pyarrow")
    try:
        return iter(load("pyarrow.parquet").read_table(path).to_pylist())
    except pyarrow.ArrowException as error:
        what = str(error).splitlines()[0]
        raise TuneError(f"cannot be read as Parquet: {what}", str(path), "write it again, or set `data.format`") from error


_READERS = {"jsonl": _json_lines, "json": _json_array, "csv": _csv, "tsv": _tsv, "parquet": _parquet}


def hub_rows(data: Data, split: str) -> list[Row]:
    """Rows of a split of a Hub dataset. Raises TuneError (code 4) when the Hub cannot be reached or has no such set."""
    datasets = load("datasets")
    try:
        found = datasets.load_dataset(data.id, data.config, split=split, revision=data.revision)
    except (OSError, ValueError, datasets.exceptions.DatasetNotFoundError) as error:
        fix = "check the id, the split and the network, or use local rows with `data.path`"
        raise TuneError(f"cannot load the dataset {data.id}: {error}", "data.id", fix, code=ENVIRONMENT) from error
    return [dict(row) for row in found]
