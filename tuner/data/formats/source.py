"""One file as the readers see it: `Source(name="train.jsonl.gz", path="/…/train.jsonl.gz", data=data).lines()` -> decoded lines.

The content tells its compression (gzip, bzip2, xz, zstd) and its encoding: UTF-8, or UTF-16 and UTF-32 by their byte-order mark.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, cast

import pyarrow

from tuner.errors import Problem
from tuner.schema.data import Data

Row = dict[str, Any]
Found = tuple[int, Row | Problem]

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
_BZIP2 = (b"1AY&SY", b"\x17rE8P\x90")  # a text may begin with BZh
ENCODINGS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
HEAD_BYTES = 1 << 16
_SHOWN = 120
_ZSTD_BYTES = 1 << 10  # Arrow's stream fills what it is asked for, or loses it
# What a damaged file, compressed or not, raises while it is read.
BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, pyarrow.ArrowException)


@dataclass(frozen=True, kw_only=True)
class Source:
    """`name` is what messages say, `path` a file on this machine; `about` holds the columns that metadata files give to media files."""

    name: str
    path: str
    data: Data
    about: dict[str, Row] | None = None
    start: int = 0
    end: int | None = None  # a part of the file: bytes of lines, row groups of Parquet

    @contextmanager
    def open(self, *, seekable: bool = False) -> Iterator[io.BufferedReader]:
        """The file's bytes, decompressed. `seekable`: copied to a temporary file first where it is compressed."""
        with open(self.path, "rb", buffering=1 << 16) as raw:
            if self.end is not None and not seekable:  # a part of lines, 32 MB
                raw.seek(self.start)
                yield io.BufferedReader(cast(io.RawIOBase, io.BytesIO(raw.read(self.end - self.start))))
                return
            opened = _decompressed(raw)
            if opened is raw:
                yield raw
            elif seekable:
                with tempfile.TemporaryFile() as copy, opened:
                    shutil.copyfileobj(opened, copy)
                    copy.seek(0)
                    yield cast(io.BufferedReader, copy)
            else:
                with opened:
                    yield opened

    def head(self, count: int = HEAD_BYTES) -> bytes:
        """The first bytes, decompressed; fewer where the compressed stream is damaged."""
        with self.open() as stream:
            found = b""
            try:
                while len(found) < count and (more := stream.read1(count - len(found))):
                    found += more
            except BROKEN:  # told by the reader, with what could be read before
                pass
            return found

    def lines(self) -> Iterator[str | Problem]:
        """Decoded lines with their line ends; in place of one that is no text, what is wrong with it."""
        with self.open() as stream:
            head = stream.peek(4)
            encoding = next((name for mark, name in ENCODINGS if head.startswith(mark)), None)
            old_mac = b"\r" in head and b"\n" not in head
            if old_mac or encoding not in (None, "utf-8-sig"):
                yield from self._wide_lines(stream, encoding or "utf-8")
                return
            stream.read(3 if encoding else 0)
            for number, raw in enumerate(stream, 1):
                try:
                    line = raw.decode()
                except UnicodeDecodeError as error:
                    yield self.undecodable(error, number)
                    continue
                yield self.nul(line, number) if "\0" in line else line

    def _wide_lines(self, stream: IO[bytes], encoding: str) -> Iterator[str | Problem]:
        number = 0
        try:
            with io.TextIOWrapper(stream, encoding=encoding, newline="") as text:
                for number, line in enumerate(text, 1):
                    yield self.nul(line, number) if "\0" in line else line
        except UnicodeDecodeError as error:
            yield self.undecodable(error, number + 1)

    def text(self) -> tuple[str | Problem, Exception | None]:
        """The whole file decoded, or what is wrong with it; and where the compressed stream breaks off, the text before and the error."""
        content, broken = bytearray(), None
        with self.open() as stream:
            try:
                while piece := stream.read1():
                    content += piece
            except BROKEN as error:
                broken = error
        return self._decoded(bytes(content), whole=broken is None), broken

    def _decoded(self, content: bytes, *, whole: bool) -> str | Problem:
        encoding = next((name for mark, name in ENCODINGS if content.startswith(mark)), "utf-8")
        try:
            text = codecs.getincrementaldecoder(encoding)().decode(content, whole)
        except UnicodeDecodeError as error:
            return self.undecodable(error, content.count(b"\n", 0, error.start) + 1, content.rfind(b"\n", 0, error.start) + 1)
        return self.nul(text, text.count("\n", 0, text.index("\0")) + 1) if "\0" in text else text

    def undecodable(self, error: UnicodeDecodeError, line: int, start: int = 0) -> Problem:
        """A line that is not UTF-8; `start` is where the line begins in what was decoded."""
        encoding = error.encoding.upper().removesuffix("-SIG")
        return self.problem(f"not {encoding} text: {error.reason} at byte {error.start - start}", line=line, fix="save the file as UTF-8")

    def nul(self, text: str, line: int) -> Problem:
        """A line with a NUL byte: a damaged file, or UTF-16 without its mark."""
        fix = "save the file as UTF-8; where it is, it is damaged here"
        return self.problem(f"not text: a NUL byte at character {text.index(chr(0)) + 1}", line=line, fix=fix)

    def problem(self, what: str, *, line: int | None = None, row: int | None = None, fix: str = "mend or remove this row") -> Problem:
        """A fault of this file, at a line or a row counted from 1."""
        where = f"{self.name}:{line}" if line else f"{self.name}, row {row}" if row else self.name
        return Problem(what=what, where=where, fix=fix)


def excerpt(text: str, column: int = 1) -> str:
    """What of a long line is shown: the part around a column counted from 1."""
    text = text.strip("\r\n")
    start = max(0, min(column - 1 - _SHOWN // 2, len(text) - _SHOWN))
    return text[start : start + _SHOWN]


def _decompressed(raw: Any) -> io.BufferedReader:
    """The stream itself, or one that decompresses it."""
    head = raw.peek(10)
    kind = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
    if kind == "gzip":
        opened: Any = gzip.GzipFile(fileobj=raw)
    elif kind == "bz2" and head[4:10] in _BZIP2:
        opened = bz2.BZ2File(raw)
    elif kind == "xz":
        opened = lzma.LZMAFile(raw)  # noqa: SIM115 (closed by the caller)
    elif kind == "zstd":
        opened = pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd")
    else:
        return cast(io.BufferedReader, raw)
    return io.BufferedReader(_Pieces(opened, _ZSTD_BYTES if kind == "zstd" else 1 << 16), buffer_size=1 << 16)


class _Pieces(io.RawIOBase):
    """A decompressing stream that gives what it has, piece by piece: filling whole buffers, it would lose what stands before a break."""

    def __init__(self, stream: Any, most: int) -> None:
        self.stream, self.most = stream, most

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """The next bytes, as many as there are up to the most."""
        piece = self.stream.read1(min(len(buffer), self.most))
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Closes both."""
        self.stream.close()
        super().close()
