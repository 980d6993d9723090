"""Readers of text by lines: JSON lines, a JSON array, plain text, CoNLL. `read_json_lines(source)` -> (1, {"prompt": …}), (2, …), …

Numbers are lines (of a paragraph or a sentence: its first), but items in a JSON array.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tuner.data.formats.coco import by_image, is_coco
from tuner.data.formats.source import Found, Row, Source, excerpt
from tuner.errors import Problem
from tuner.schema.data import SampleBy

_SPACE = re.compile(r"[ \t\r\n]*")

LOOKED_AT = 100  # lines of a file, for keys that stand twice; in all of them it would cost a fifth of the reading
TALKS = ("messages", "conversations")  # a list of these names is one row's


def read_json_lines(source: Source) -> Iterator[Found]:
    """A mapping a line; blank lines are left out."""
    for number, line in enumerate(source.lines(), 1):
        if isinstance(line, Problem):
            yield number, line
            continue
        try:
            value = json.loads(line) if number > LOOKED_AT else json.loads(line, object_pairs_hook=_once)
        except _Twice as twice:
            fix = "JSON keeps the last one alone: give them two names"
            yield number, source.problem(f"the key `{twice}` stands twice in one mapping: {excerpt(line)}", line=number, fix=fix)
            continue
        except (ValueError, RecursionError) as error:
            if not line.isspace():  # asked here only: it would cost time on every good line
                yield number, _not_json(source, line, error, number)
            continue
        if isinstance(value, dict) and "\\u" not in line:  # what `_row` would find, without the call
            yield number, value
        else:
            yield number, _row(source, value, line, line_number=number)


class _Twice(Exception):
    """A key of a mapping that has it already."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _Twice(next(name for name in names if names.count(name) > 1))
    return found


def read_json(source: Source) -> Iterator[Found]:
    """The items of an array, or of the only list in a mapping; a mapping without one is one row.

    An article of SQuAD's is its questions, a file of COCO's its images with what is on them.
    """
    text, broken = source.text()
    if isinstance(text, Problem):
        yield 1, text
        return
    row = 0
    try:
        for value, part in _items(text):
            for one in _questions(_row(source, value, part, row_number=row + 1)):
                row += 1
                yield row, one
    except (ValueError, RecursionError) as error:
        if broken is None:
            yield row + 1, _not_json(source, text, error, 1)
    if broken:
        raise broken


def _questions(row: Row | Problem) -> Iterator[Row | Problem]:
    """The questions of an article, as SQuAD's own files hold them (`paragraphs`, with `qas`), each with its text; any other row itself."""
    paragraphs = row.get("paragraphs") if isinstance(row, dict) else None
    if not isinstance(paragraphs, list) or not all(isinstance(p, dict) and isinstance(p.get("qas"), list) for p in paragraphs):
        yield row
        return
    assert isinstance(row, dict)
    about = {name: value for name, value in row.items() if name != "paragraphs"}
    for paragraph in paragraphs:
        shared = about | {name: value for name, value in paragraph.items() if name != "qas"}
        yield from (shared | (asked if isinstance(asked, dict) else {"question": asked}) for asked in paragraph["qas"])


def _items(text: str) -> Iterator[tuple[Any, str]]:
    """(value, the text that it was read from) of each row."""
    decoder, at = json.JSONDecoder(), _after_space(text, 0)
    if at == len(text):
        return
    if text[at] != "[":
        values = json.loads(text)
        if is_coco(values):
            yield from ((row, "") for row in by_image(values))
            return
        lists = [v for k, v in values.items() if isinstance(v, list) and k not in TALKS] if isinstance(values, dict) else []
        yield from ((value, text) for value in (lists[0] if len(lists) == 1 else [values]))
        return
    first = at = _after_space(text, at + 1)
    while at > first or text[at : at + 1] != "]":  # an empty array ends here, any other behind a value
        value, end = decoder.raw_decode(text, at)
        yield value, text[at:end]
        at = _after_space(text, end)
        if text[at : at + 1] not in (",", "]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
        if text[at] == "]":
            break
        at = _after_space(text, at + 1)
    if (at := _after_space(text, at + 1)) < len(text):
        raise json.JSONDecodeError("Extra data", text, at)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found
    return found.end()


def _row(source: Source, value: Any, text: str, *, line_number: int | None = None, row_number: int | None = None) -> Row | Problem:
    """The value, where it is a row. `text` is what it was read from."""
    if not isinstance(value, dict):
        what = f"a row is a mapping of columns, not {type(value).__name__}: {str(value)[:80]}"
        return source.problem(what, line=line_number, row=row_number)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            what = r"half a character: a \ud… escape without its other half"
            return source.problem(f"{what}: {excerpt(text)}", line=line_number, row=row_number)
    return value


def _not_json(source: Source, text: str, error: Exception, line: int) -> Problem:
    if isinstance(error, json.JSONDecodeError) and text.startswith("\ufeff"):
        fix = "take it out: files with such a mark were put together"
        return source.problem("a byte-order mark within the file", line=line, fix=fix)
    if isinstance(error, json.JSONDecodeError) and error.pos >= (end := len(text.rstrip())):
        begin = text.rfind("\n", 0, end) + 1
        what = f"not valid JSON: it breaks off here: {excerpt(text[begin:end], end - begin)}"
        return source.problem(what, line=line + text.count("\n", 0, end))
    if isinstance(error, json.JSONDecodeError):
        start = text.rfind("\n", 0, error.pos) + 1
        shown = excerpt(text[start:].partition("\n")[0], error.colno)
        return source.problem(f"not valid JSON: {error.msg} (column {error.colno}): {shown}", line=line + error.lineno - 1)
    reason = "nested too deeply" if isinstance(error, RecursionError) else "a number of too many digits"
    return source.problem(f"not readable as JSON: {reason}: {excerpt(text)}", line=line)


def read_text(source: Source) -> Iterator[Found]:
    """`{"text": …}` of each line that is not blank, of each paragraph, or of the document."""
    by = source.data.sample_by
    start, held, broken = 1, list[str](), None
    for number, line in enumerate(source.lines(), 1):
        if isinstance(line, Problem):
            broken = broken or line
            if by is SampleBy.line:
                yield number, line
                broken = None
            continue
        blank = not line.strip()
        if by is SampleBy.line:
            if not blank:
                yield number, {"text": line.rstrip("\r\n")}
        elif blank and by is SampleBy.paragraph:
            yield from _joined(start, held, broken)
            held, broken = [], None
        else:
            start = start if held else number
            held.append(line)
    yield from _joined(start, held, broken)


def _joined(start: int, lines: list[str], broken: Problem | None) -> Iterator[Found]:
    """The lines as one row, unless one of them was no text."""
    if broken:
        yield start, broken
    elif text := "".join(lines).rstrip():
        yield start, {"text": text.replace("\r\n", "\n")}


def read_conll(source: Source) -> Iterator[Found]:
    """A sentence a row: `{"tokens": […], "tags": […]}` of the first and the last column, or every column under `data.names`."""
    start, words, broken = 1, list[list[str]](), None
    for number, line in enumerate(source.lines(), 1):
        if isinstance(line, Problem):
            broken = broken or line
            continue
        if not line.strip():
            yield from _sentence(source, start, words, broken)
            words, broken = [], None
        elif not line.startswith("-DOCSTART-"):
            start = start if words else number
            words.append(line.rstrip("\r\n").split("\t") if "\t" in line else line.split())
            wanted = len(source.data.names) or 2
            if len(words[-1]) < wanted or (source.data.names and len(words[-1]) > wanted) or len(words[-1]) != len(words[0]):
                what = f"{len(words[-1])} columns, not {len(words[0]) if len(words) > 1 else wanted}: {excerpt(line)}"
                fix = "a line is a token and its tags, a blank line ends the sentence; `data.names` names the columns"
                broken = broken or source.problem(what, line=number, fix=fix)
    yield from _sentence(source, start, words, broken)


def _sentence(source: Source, start: int, words: list[list[str]], broken: Problem | None) -> Iterator[Found]:
    """The words of a sentence by column, unless a line of it is broken."""
    if broken:
        yield start, broken
    elif words:
        columns = [list(c) for c in zip(*words, strict=True)]
        names = source.data.names
        yield start, dict(zip(names, columns, strict=True)) if names else {"tokens": columns[0], "tags": columns[-1]}
