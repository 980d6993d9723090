"""Transforms by regular expression: `data: {transforms: [{replace: {pattern: "[0-9]{6,}", by: "<number>"}}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.expression import pattern_problem
from tuner.schema.transforms.text import Text


@kind("transform", "replace")
@dataclass(kw_only=True)
class Replace(Text):
    """Puts `by` wherever the regular expression `pattern` fits; `\\1` is its first group."""

    example = "replace: {pattern: '(\\d+),(\\d+) EUR', by: '\\1.\\2 €'}"
    pattern: str = opt()
    """Regular expression."""
    by: str = opt("")
    """What stands there instead."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """The pattern is a regular expression, and has the groups that `by` names."""
        yield from pattern_problem(self.pattern, by=self.by)


@kind("transform", "remove_lines")
@dataclass(kw_only=True)
class RemoveLines(Text):
    """Takes out the lines in which the regular expression `matching` is found."""

    main = "matching"
    example = "remove_lines: '^(Sent from my|Unsubscribe)'"
    matching: str = opt()
    """Regular expression."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """It is a regular expression."""
        yield from pattern_problem(self.matching)
