"""Reader of XML: each record element is a row. `<rows><row id="1"><text>good</text></row>…</rows>` -> {"id": "1", "text": "good"}.

A document type is refused: its entities can make a small file fill the memory, or fetch other files (https://docs.python.org/3/library/xml.html).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from tuner.data.formats.source import BROKEN, Found, Row, Source
from tuner.errors import Problem

_CHUNK = 1 << 16


class _Refused(Exception):
    """The file declares a document type."""


class _Unclear(Exception):
    """No element below the root is plainly the record."""


class _Target:
    """What the parser calls: counts the elements directly below the root, or with `record` builds each record and nothing else."""

    def __init__(self, record: str | None) -> None:
        self.record = record
        self.depth = self.inside = 0  # inside: the depth at which the record began
        self.builder: ElementTree.TreeBuilder | None = None
        self.done: list[ElementTree.Element] = []
        self.counts: Counter[str] = Counter()

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuses a document type before any of its entities is used."""
        raise _Refused

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element opens."""
        self.depth += 1
        if self.record is None:
            self.counts[_local(tag)] += self.depth == 2
        elif self.builder is None and _local(tag) == self.record:
            self.builder, self.inside = ElementTree.TreeBuilder(), self.depth
        if self.builder:
            self.builder.start(tag, attributes)

    def data(self, text: str) -> None:
        """Text between tags."""
        if self.builder:
            self.builder.data(text)

    def end(self, tag: str) -> None:
        """An element closes."""
        if self.builder:
            self.builder.end(tag)
            if self.depth == self.inside:
                self.done.append(self.builder.close())
                self.builder = None
        self.depth -= 1

    def close(self) -> None:
        """The document ends."""


def read_xml(source: Source) -> Iterator[Found]:
    """Rows of attributes and child elements, by their names without namespace; a child that stands there twice is a list."""
    number = 0
    try:
        record = source.data.record or _repeating(source)
        for element in _parsed(source, _Target(record)):
            number += 1
            yield number, _row(element)
    except (ElementTree.ParseError, _Refused, _Unclear, ValueError, LookupError, RecursionError) as error:
        yield number + 1, _problem(source, error, number)


def _problem(source: Source, error: Exception, number: int) -> Problem:
    if isinstance(error, _Refused):
        return source.problem(
            "the file declares a document type (DOCTYPE), which could hold harmful entities", fix="remove the declaration"
        )
    if isinstance(error, _Unclear):
        return source.problem(str(error), fix="name the element that is one row: `data.record=item`")
    line = error.position[0] if isinstance(error, ElementTree.ParseError) else None
    reason = "nested too deeply" if isinstance(error, RecursionError) else error
    row = None if line or not number else number + 1
    return source.problem(f"not valid XML: {reason}", line=line, row=row, fix="mend the file: reading cannot go on behind it")


def _parsed(source: Source, target: _Target) -> Iterator[ElementTree.Element]:
    """The record elements, as they are read."""
    parser = ElementTree.XMLParser(target=target)
    with source.open() as stream:
        while chunk := stream.read1(_CHUNK):
            parser.feed(chunk)
            yield from target.done
            target.done.clear()
    parser.close()


def _repeating(source: Source) -> str:
    """The element that repeats below the root, or the only one there. A pass over the file of its own."""
    target = _Target(None)
    try:
        for _ in _parsed(source, target):
            pass
    except BROKEN:  # told when it is read again, behind the rows before it
        if not target.counts:
            raise
    repeated = [tag for tag, count in target.counts.items() if count > 1] or list(target.counts)
    if len(repeated) == 1:
        return repeated[0]
    found = ", ".join(f"{tag} ×{count}" for tag, count in target.counts.items()) or "none"
    raise _Unclear(f"it is not plain which element is a row; below the root there are: {found}")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _row(element: ElementTree.Element) -> Row:
    found: Row = {}
    pairs: list[tuple[str, Any]] = [(_local(name), value) for name, value in element.attrib.items()]
    text = (element.text or "").strip()
    if any((child.tail or "").strip() for child in element):  # prose with marked-up words
        text = "".join(element.itertext()).strip()
    else:
        pairs += [(_local(child.tag), _value(child)) for child in element]
    if text:
        pairs.append(("text", text))
    counts = Counter(name for name, _ in pairs)
    for name, value in pairs:
        if counts[name] > 1:
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def _value(element: ElementTree.Element) -> Any:
    """Text where there is nothing else, or a mapping."""
    if not element.attrib and (not len(element) or any((child.tail or "").strip() for child in element)):
        return "".join(element.itertext()).strip()
    return _row(element)
