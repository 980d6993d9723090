"""Readers of images, audio and WebDataset archives. `cats/1.jpg` -> {"image": "/photos/cats/1.jpg", "label": "cats"}.

The label is the folder's name; or `data.file_name` reads columns from the file's name; or a metadata file beside the files has them.
"""

from __future__ import annotations

import json
import os
import re
import string
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from tuner.data.formats.source import Found, Row, Source
from tuner.errors import Problem, TuneError
from tuner.files import MEDIA, METADATA, format_of

NAMED = ("image", "mask", "audio", "path", "image_path", "mask_path", "audio_path", "annotation")  # columns of a manifest that name a file
_TEXTS = ("txt", "text", "transcript")
_NUMBERS = ("cls", "cls2", "index", "inx", "id")
_JSON = ("json", "jsn")


def read_images(source: Source) -> Iterator[Found]:
    """One row: the image's path and its columns."""
    return _one(source, "image")


def read_audio(source: Source) -> Iterator[Found]:
    """One row: the recording's path and its columns."""
    return _one(source, "audio")


def _one(source: Source, column: str) -> Iterator[Found]:
    path = os.path.abspath(source.path)
    if source.name != source.path:
        fix = "fetch the files, or pack them: `data.format=webdataset`, or Parquet"
        yield 1, source.problem(f"{column} files are read from this machine only", fix=fix)
    elif source.data.file_name:
        pattern, names = template(source.data.file_name)
        stem = os.path.splitext(os.path.basename(path))[0]
        if found := pattern.fullmatch(stem):
            yield 1, _with_metadata(source, {column: path, **dict(zip(names, found.groups(), strict=True))})
        else:
            what = f"the name {stem!r} does not fit `data.file_name={source.data.file_name}`"
            yield 1, source.problem(what, fix="rename or remove the file, or change the pattern")
    elif source.about is None:
        yield 1, {column: path, "label": os.path.basename(os.path.dirname(path))} | _said(path)
    elif path in source.about:
        yield 1, _with_metadata(source, {column: path})
    else:
        yield 1, source.problem("no metadata file has a row for it", fix="add one under its `file_name`, or remove the file")


def _said(path: str) -> Row:
    """The text of a file that has the same name: a caption, or what is said."""
    beside = os.path.splitext(path)[0] + ".txt"
    if not os.path.isfile(beside):
        return {}
    with open(beside, encoding="utf-8", errors="replace") as stream:
        return {"text": stream.read().strip()}


def _with_metadata(source: Source, row: Row) -> Row:
    return (source.about or {}).get(next(iter(row.values())), {}) | row


@lru_cache
def template(pattern: str) -> tuple[re.Pattern[str], tuple[str, ...]]:
    """`{label}_{speaker}` as a regular expression and its columns: a value ends where the text after it begins.

    Raises TuneError (code 2) for a pattern without columns, or with two that nothing divides.
    """
    try:
        parts = list(string.Formatter().parse(pattern))
    except ValueError as error:
        raise TuneError(f"not a pattern: {error}", "data.file_name", "write it as `{label}_{speaker}`") from error
    names = [name for _, name, _, _ in parts if name is not None]
    divided = all(text for (text, _, _, _), (_, before, _, _) in zip(parts[1:], parts, strict=False) if before is not None)
    plain = all(not spec and not conversion for _, _, spec, conversion in parts)
    if not names or not all(names) or len(set(names)) < len(names) or not divided or not plain:
        what = f"`data.file_name={pattern}` cannot be read back"
        raise TuneError(what, "data.file_name", "name each column once, with text between two: `{label}_{speaker}_{take}`")
    expression = ""
    for index, (text, name, _, _) in enumerate(parts):
        after = parts[index + 1][0] if index + 1 < len(parts) else ""
        value = f"((?:(?!{re.escape(after)}).)+)" if after else "(.+)"
        expression += re.escape(text) + (value if name is not None else "")
    return re.compile(expression, re.DOTALL), tuple(names)


def is_metadata(path: str) -> bool:
    """Whether a file may hold the columns of the media files beside it."""
    return os.path.basename(path) in METADATA


def has_media(files: Sequence[str]) -> bool:
    """Whether images or audio are among the files."""
    return any(format_of(name) in MEDIA for name in files)


def add_metadata(about: dict[str, Row], source: str, row: Row) -> str | None:
    """Note a row of a metadata file under the media file that it is about; what is wrong with it, if something is."""
    columns = dict(row)
    name = columns.pop("file_name", None)
    if not isinstance(name, str) or not name:
        return "a metadata row needs the name of its file in the column `file_name`"
    path = os.path.abspath(os.path.join(os.path.dirname(source), name))
    if not os.path.isfile(path):
        return f"there is no such file: {path}"
    if path in about:
        return f"the second row for {path}"
    about[path] = columns
    return None


def beside(manifest: str, found: Iterable[Found]) -> Iterator[Found]:
    """Rows whose media files are named from where the manifest stands, with the whole paths."""
    folder = os.path.dirname(os.path.abspath(manifest))
    for number, row in found:
        if isinstance(row, dict):
            for column in NAMED:
                value = row.get(column)
                if isinstance(value, str) and value and os.path.isfile(whole := os.path.join(folder, value)):
                    row[column] = whole
        yield number, row


def read_webdataset(source: Source) -> Iterator[Found]:
    """Members of a tar that share their name up to the first dot are one row: `a.jpg`, `a.cls` -> {"__key__": "a", "jpg": b"…", "cls": 3}.

    Text, numbers and JSON are decoded, images and audio stay bytes. Nothing is unpacked to disk.
    """
    number, row, broken = 0, Row(), None
    with source.open() as stream:
        try:
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                while member := archive.next():
                    archive.members = []  # type: ignore[attr-defined]  # or a long archive would be kept in memory, member by member
                    key, field = _split(member.name)
                    if member.isdir() or not field:
                        continue
                    if row and key != row["__key__"]:
                        number += 1
                        yield number, broken or row
                        row, broken = Row(), None
                    row.setdefault("__key__", key)
                    value = _member(source, archive, member, field, twice=field in row)
                    if isinstance(value, Problem):
                        broken = broken or value
                    else:
                        row[field] = value[0]
        except (tarfile.TarError, ValueError, OverflowError) as error:
            fix = "it is cut off or damaged: fetch or write it again"
            broken = source.problem(f"cannot be read as a tar archive: {error}", row=number + 1 if number else None, fix=fix)
    if row or broken:
        yield number + 1, broken or row


def _split(name: str) -> tuple[str, str]:
    """`train/a.seg.png` -> (`train/a`, `seg.png`); no second part for what is no member of a row: hidden files, files without an ending."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, field = base.partition(".")
    return folder + slash + stem, field if stem and not stem.startswith("__") else ""


def _member(source: Source, archive: tarfile.TarFile, member: tarfile.TarInfo, field: str, *, twice: bool) -> tuple[Any] | Problem:
    """A member's value (in a tuple), or what is wrong with it."""
    problem = None
    if member.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", member.name) or re.match(r"[A-Za-z]:", member.name):
        problem = "has a path that leads out of the archive"
    elif not member.isreg() or member.issparse():
        problem = "is no plain file"
    elif twice:
        problem = "stands there twice"
    if problem:
        return source.problem(f"the member {member.name!r} {problem}", fix="pack the archive again without it")
    stream = archive.extractfile(member)
    assert stream
    content, ending = stream.read(), field.rpartition(".")[2].lower()
    try:
        if ending in _TEXTS:
            return (content.decode(),)
        if ending in _NUMBERS:
            return (int(content),)
        if ending in _JSON:
            return (json.loads(content),)
    except (ValueError, RecursionError) as error:
        return source.problem(f"the member {member.name!r} cannot be decoded: {error}", fix="mend or remove it")
    return (content,)
