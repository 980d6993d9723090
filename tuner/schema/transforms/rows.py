"""Transforms that change columns: `data: {transforms: [{rename: {q: prompt}}, {map_values: {column: label, values: {0: no, 1: yes}}}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.base import Transform


class Kind(StrEnum):
    """Types of values."""

    text = "text"
    integer = "integer"
    number = "number"
    boolean = "boolean"


@dataclass(kw_only=True)
class Columns(Transform):
    """A change of columns."""

    impl = "tuner.data.transforms.rows"
    columns: ClassVar[tuple[str, ...]] = ("column",)


@kind("transform", "rename")
@dataclass(kw_only=True)
class Rename(Columns):
    """Gives columns other names; one that has the new name already is replaced."""

    main, free, columns = "names", True, ("names",)
    example = "rename: {question_text: prompt, reply: completion}"
    names: dict[str, str] = opt()
    """Old name: new name."""


@kind("transform", "keep_columns")
@dataclass(kw_only=True)
class KeepColumns(Columns):
    """Leaves these columns and no other."""

    main, columns = "names", ("names",)
    example = "keep_columns: [prompt, completion]"
    names: list[str] = opt()
    """Columns that stay."""


@kind("transform", "drop_columns")
@dataclass(kw_only=True)
class DropColumns(Columns):
    """Takes these columns out."""

    main, columns = "names", ("names",)
    example = "drop_columns: [id, crawled_at]"
    names: list[str] = opt()
    """Columns that go."""


@kind("transform", "set")
@dataclass(kw_only=True)
class Set(Columns):
    """Puts fixed values into columns, in place of what is there."""

    main, free, columns = "values", True, ()
    example = "set: {system: Answer in German.}"
    values: dict[str, Any] = opt()
    """Column: value."""


@kind("transform", "fill_missing")
@dataclass(kw_only=True)
class FillMissing(Columns):
    """Puts values where a column is absent, null or empty."""

    main, free, columns = "values", True, ()
    example = 'fill_missing: {input: ""}'
    values: dict[str, Any] = opt()
    """Column: value."""


@kind("transform", "template")
@dataclass(kw_only=True)
class Template(Columns):
    """Makes columns out of others: `{title}` is a column's value, and a line whose columns are all empty is left out."""

    main, free, columns = "made", True, ()
    example = 'template: {prompt: "{title}\\n{body}"}'
    made: dict[str, str] = opt()
    """Column: text with column names in braces."""


@kind("transform", "map_values")
@dataclass(kw_only=True)
class MapValues(Columns):
    """Exchanges the values of a column; those that are not listed stay."""

    example = "map_values: {column: label, values: {0: negative, 1: positive}}"
    column: str = opt()
    """The column."""
    values: dict[Any, Any] = opt()
    """Old value: new value."""


@kind("transform", "parse_json")
@dataclass(kw_only=True)
class ParseJson(Columns):
    """Reads JSON text in a column; what is no JSON stops the run."""

    main = "column"
    example = "parse_json: messages"
    column: str = opt()
    """The column."""


@kind("transform", "to_json")
@dataclass(kw_only=True)
class ToJson(Columns):
    """Writes a column as JSON text."""

    main = "column"
    example = "to_json: completion"
    column: str = opt()
    """The column."""


@kind("transform", "split_column")
@dataclass(kw_only=True)
class SplitColumn(Columns):
    """Splits a text into columns; what is too much goes into the last, and what lacks is empty."""

    example = 'split_column: {column: pair, by: " => ", into: [prompt, completion]}'
    column: str = opt()
    """The column."""
    by: str = opt("\t")
    """The text between the parts."""
    into: list[str] = opt()
    """The new columns."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """There is something to split by, and somewhere to put it."""
        if not self.by or not self.into:
            yield "`by` and `into` cannot be empty", 'write `{column: pair, by: "\\t", into: [prompt, completion]}`'


@kind("transform", "cast")
@dataclass(kw_only=True)
class Cast(Columns):
    """Changes the type of a column's values (null stays); one that cannot be changed stops the run."""

    example = "cast: {column: label, to: integer}"
    column: str = opt()
    """The column."""
    to: Kind = opt()
    """The type."""


@kind("transform", "flatten")
@dataclass(kw_only=True)
class Flatten(Columns):
    """Mappings inside a row become columns: `{meta: {lang: de}}` is `{meta_lang: de}`."""

    main, columns = "by", ()
    example = "flatten: _"
    by: str = opt("_")
    """What stands between the names."""


@kind("transform", "explode")
@dataclass(kw_only=True)
class Explode(Columns):
    """A row for each item of a list; a mapping in the list becomes columns. A row whose list is empty keeps null."""

    main = "column"
    example = "explode: questions"
    column: str = opt()
    """The column with lists."""
