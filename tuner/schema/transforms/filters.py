"""Transforms that drop rows: by expression, length, language, likeness and quality. `data: {transforms: [{filter: "len(text) > 20"}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.expression import columns_in, expression_problem, parse_expression, pattern_problem
from tuner.schema.transforms.base import Transform
from tuner.schema.transforms.languages import LANGUAGES


@dataclass(kw_only=True)
class Filter(Transform):
    """A filter over the texts of a row."""

    impl = "tuner.data.transforms.filters"
    drops = True
    fields: list[str] = opt(factory=list)
    """Columns whose texts are looked at, taken together; none: all texts of the row."""


@kind("transform", "filter")
@dataclass(kw_only=True)
class ByExpression(Transform):
    """Keeps the rows for which an expression over their columns holds (its language: docs/data.md)."""

    impl = "tuner.data.transforms.filters"
    main, drops = "keep", True
    example = 'filter: "len(text) > 20 and label != 3"'
    keep: str = opt()
    """The expression."""

    def named_columns(self) -> list[str]:
        """Those of the expression."""
        return sorted(columns_in(parse_expression(self.keep)))

    def problems(self) -> Iterator[tuple[str, str]]:
        """It can be read."""
        yield from expression_problem(self.keep)


@kind("transform", "min_chars")
@dataclass(kw_only=True)
class MinChars(Filter):
    """Drops rows with fewer characters than this."""

    main = "least"
    example = "min_chars: {least: 20, fields: [completion]}"
    least: int = opt(ge=1)
    """Characters, spaces at the ends not counted."""


@kind("transform", "max_chars")
@dataclass(kw_only=True)
class MaxChars(Filter):
    """Drops rows with more characters than this."""

    main = "most"
    example = "max_chars: 20000"
    most: int = opt(ge=1)
    """Characters, spaces at the ends not counted."""


@kind("transform", "min_words")
@dataclass(kw_only=True)
class MinWords(Filter):
    """Drops rows with fewer words than this; a Chinese or Japanese character is one, and so are four of Thai, Lao, Khmer, Burmese."""

    main = "least"
    example = "min_words: 5"
    least: int = opt(ge=1)
    """Words."""


@kind("transform", "max_words")
@dataclass(kw_only=True)
class MaxWords(Filter):
    """Drops rows with more words than this, counted as `min_words` does."""

    main = "most"
    example = "max_words: 2000"
    most: int = opt(ge=1)
    """Words."""


@kind("transform", "drop_empty")
@dataclass(kw_only=True)
class DropEmpty(Filter):
    """Drops rows without any text, or in which one of `fields` is absent, null, or has nothing but space."""

    main = "fields"
    example = "drop_empty: [prompt, completion]"


@kind("transform", "drop_missing")
@dataclass(kw_only=True)
class DropMissing(Filter):
    """Drops rows in which a column of `fields` (none: any column) is absent or null."""

    main = "fields"
    example = "drop_missing: [label]"


@kind("transform", "drop_matching")
@dataclass(kw_only=True)
class DropMatching(Filter):
    """Drops rows in whose texts the regular expression `pattern` is found."""

    main = "pattern"
    example = "drop_matching: '(?i)as an ai language model'"
    pattern: str = opt()
    """Regular expression."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """It is a regular expression."""
        yield from pattern_problem(self.pattern)


@kind("transform", "keep_values")
@dataclass(kw_only=True)
class KeepValues(Transform):
    """Keeps the rows whose column has one of these values."""

    impl = "tuner.data.transforms.filters"
    drops, columns = True, ("column",)
    example = "keep_values: {column: split, values: [train]}"
    column: str = opt()
    """The column."""
    values: list[Any] = opt()
    """Values that stay."""


@kind("transform", "language")
@dataclass(kw_only=True)
class Language(Filter):
    """Keeps rows in these languages, told by py3langid out of 139; what is too short to tell stays."""

    main, needs = "keep", ("py3langid",)
    example = "language: [de, en]"
    keep: list[str] = opt()
    """Codes of two letters (ISO 639-1), or of three where there are none (ISO 639-3)."""
    min_letters: int = opt(20, ge=1)
    """A text with fewer letters is not judged; a Chinese or Japanese character counts as four."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Each is a language that can be told."""
        for code in sorted({code.lower() for code in self.keep} - LANGUAGES):
            fix = (
                '`no` without quotation marks is false in YAML: write `"no"`'
                if code == "false"
                else f"one of {', '.join(sorted(LANGUAGES))}"
            )
            yield f"no language has the code `{code}`", fix


@kind("transform", "script")
@dataclass(kw_only=True)
class Script(Filter):
    """Keeps rows whose letters are, to a share of `least`, of these scripts."""

    main = "keep"
    example = "script: {keep: [Latin], least: 0.9}"
    keep: list[str] = opt()
    """Scripts as Unicode calls them: Latin, Cyrillic, Han, Hiragana, Arabic, Thai …"""
    least: float = opt(0.8, gt=0, le=1)
    """Share of the letters."""


@kind("transform", "drop_duplicates")
@dataclass(kw_only=True)
class DropDuplicates(Transform):
    """Keeps the first of rows that are the same, in all columns or in `fields`; with `loose`, but for case, marks and space."""

    impl = "tuner.data.transforms.duplicates"
    main, drops, whole_set = "fields", True, True
    example = "drop_duplicates: [prompt]"
    fields: list[str] = opt(factory=list)
    """Columns that are compared."""
    loose: bool = opt(False)
    """Texts that differ in case, punctuation and space alone are the same."""


@kind("transform", "drop_conflicting")
@dataclass(kw_only=True)
class DropConflicting(Transform):
    """Drops all rows that are the same in `fields` and differ in `column`: one text, two labels."""

    impl = "tuner.data.transforms.duplicates"
    drops, whole_set, columns = True, True, ("fields", "column")
    example = "drop_conflicting: {fields: [text], column: label}"
    fields: list[str] = opt()
    """Columns that are compared."""
    column: str = opt()
    """The column that has to be the same."""


@kind("transform", "drop_near_duplicates")
@dataclass(kw_only=True)
class DropNearDuplicates(Filter):
    """Keeps the first of rows whose texts are nearly the same: Jaccard likeness of word 3-grams, estimated by MinHash (rensa)."""

    impl = "tuner.data.transforms.duplicates"
    main, whole_set, needs = "threshold", True, ("rensa",)
    example = "drop_near_duplicates: {threshold: 0.8}"
    threshold: float = opt(0.8, ge=0.3, le=1)
    """Likeness from which a row counts as the same as an earlier one."""
    ngram: int = opt(3, ge=1, le=20)
    """Words (in unspaced scripts: characters) of a gram."""
