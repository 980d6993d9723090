"""Steps that drop rows: `STEPS["min_words"]`. What each does is said in schema/transforms/filters.py."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import regex

from tuner.data.expressions import PATTERN_S, compiled
from tuner.data.expressions import Failed as Uncomputed
from tuner.data.transforms.rows import key_of
from tuner.data.transforms.steps import Failed, Row, Step, kept, library, whole_text
from tuner.data.words import HAN, count_words
from tuner.errors import TuneError

JUDGED = 2000  # characters of a text that its language is told from
_LETTER, _HAN = regex.compile(r"\p{L}"), regex.compile(rf"[{HAN}]")


def by_expression(rows: Sequence[Row], text: str) -> Iterator[tuple[int, bool]]:
    """(index, whether the expression holds) of each row."""
    holds = compiled(text)
    for index, row in enumerate(rows):
        try:
            yield index, bool(holds(row))
        except Uncomputed as error:
            raise Failed(index, f"the expression `{text}` cannot be computed: {error}") from error


def _filter(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    return ((index, rows[index]) for index, holds in by_expression(rows, step.keep) if holds)


def _empty(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip()) or value in ([], {})


def _not_empty(step: Any) -> Callable[[Row], bool]:
    if step.fields:
        return lambda row: not any(_empty(row.get(name)) for name in step.fields)
    return lambda row: bool(whole_text(row).strip())


def _not_missing(step: Any) -> Callable[[Row], bool]:
    return lambda row: not any(row.get(name) is None for name in step.fields or row)


def _not_matching(step: Any) -> Callable[[Row], bool]:
    found = regex.compile(step.pattern)
    return lambda row: found.search(whole_text(row, step.fields), timeout=PATTERN_S) is None


def _values(step: Any) -> Callable[[Row], bool]:
    values = {key_of(v) for v in step.values}
    return lambda row: key_of(row.get(step.column)) in values


@functools.cache
def _identifier() -> Any:
    return library("py3langid.langid", "language").LanguageIdentifier.from_model_file("data/model.npz.xz")


def _language(step: Any) -> Callable[[Row], bool]:
    identifier, wanted = _identifier(), {code.lower() for code in step.keep}

    def keep(row: Row) -> bool:
        text = whole_text(row, step.fields)[:JUDGED]
        letters = len(_LETTER.findall(text)) + 3 * len(_HAN.findall(text))
        return letters < step.min_letters or str(identifier.classify(text)[0]) in wanted

    return keep


def _script(step: Any) -> Callable[[Row], bool]:
    try:
        wanted = regex.compile("[" + "".join(rf"\p{{Script={name}}}" for name in step.keep) + "]")
    except regex.error as error:
        fix = "as Unicode calls them: Latin, Cyrillic, Greek, Arabic, Hebrew, Devanagari, Han, Hiragana, Katakana, Hangul, Thai …"
        raise TuneError(f"`script` does not know one of {step.keep}", "script.keep", fix) from error

    def keep(row: Row) -> bool:
        letters = _LETTER.findall(whole_text(row, step.fields))
        return not letters or len(wanted.findall("".join(letters))) >= step.least * len(letters)

    return keep


STEPS: dict[str, Step] = {
    "filter": _filter,
    "min_chars": kept(lambda step: lambda row: len(whole_text(row, step.fields).strip()) >= step.least),
    "max_chars": kept(lambda step: lambda row: len(whole_text(row, step.fields).strip()) <= step.most),
    "min_words": kept(lambda step: lambda row: count_words(whole_text(row, step.fields)) >= step.least),
    "max_words": kept(lambda step: lambda row: count_words(whole_text(row, step.fields)) <= step.most),
    "drop_empty": kept(_not_empty),
    "drop_missing": kept(_not_missing),
    "drop_matching": kept(_not_matching),
    "keep_values": kept(_values),
    "language": kept(_language),
    "script": kept(_script),
}
