"""Transforms that choose and order rows: `data: {transforms: [{balance: label}, {sample: 1000}, {sort_by: score}]}`. `seed` draws."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.expression import columns_in, expression_problem, parse_expression
from tuner.schema.transforms.base import Transform


class Balance(StrEnum):
    """How groups are made equal."""

    down = "down"
    up = "up"


@dataclass(kw_only=True)
class Sampling(Transform):
    """A choice of rows."""

    whole_set = True
    impl = "tuner.data.transforms.sampling"
    drops, held_out = True, False
    columns: ClassVar[tuple[str, ...]] = ("column",)


@kind("transform", "sample")
@dataclass(kw_only=True)
class Sample(Sampling):
    """Draws `n` rows, or the share `fraction`; they stay in order."""

    main, columns = "n", ()
    example = "sample: {fraction: 0.1}"
    n: int | None = opt(None, ge=1)
    """How many rows; all where there are fewer."""
    fraction: float | None = opt(None, gt=0, le=1)
    """Share of the rows."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """One of the two is said."""
        if (self.n is None) == (self.fraction is None):
            yield "say how many: `n` or `fraction`", "write `sample: 1000` or `sample: {fraction: 0.1}`"


@kind("transform", "first")
@dataclass(kw_only=True)
class First(Sampling):
    """Keeps the first `n` rows."""

    main, columns = "n", ()
    example = "first: 1000"
    n: int = opt(ge=1)
    """How many rows."""


@kind("transform", "balance")
@dataclass(kw_only=True)
class BalanceBy(Sampling):
    """As many rows of each value of a column: as the rarest has (`down`), or the commonest (`up`, by repeating rows)."""

    main = "column"
    example = "balance: {column: label, by: down}"
    column: str = opt()
    """The column."""
    by: Balance = opt(Balance.down)
    """Drop rows of common values, or repeat those of rare ones."""


@kind("transform", "limit_per")
@dataclass(kw_only=True)
class LimitPer(Sampling):
    """At most `n` rows of each value of a column, the first ones."""

    example = "limit_per: {column: customer, n: 20}"
    column: str = opt()
    """The column."""
    n: int = opt(ge=1)
    """How many rows."""


@kind("transform", "shuffle")
@dataclass(kw_only=True)
class Shuffle(Sampling):
    """Puts rows in a random order, before `first` or `limit_per` (training shuffles by itself)."""

    drops, columns = False, ()
    example = "shuffle"


@kind("transform", "sort_by")
@dataclass(kw_only=True)
class SortBy(Sampling):
    """Puts rows in the order of a column; rows without a value come last."""

    main, drops = "column", False
    example = "sort_by: {column: score, descending: true}"
    column: str = opt()
    """The column."""
    descending: bool = opt(False)
    """The largest first."""


@kind("transform", "repeat")
@dataclass(kw_only=True)
class Repeat(Sampling):
    """Repeats the rows for which an expression holds (none: all rows), so that each is there `times` times."""

    whole_set = False
    main, drops = "times", False
    example = "repeat: {times: 3, where: \"source == 'gold'\"}"
    times: int = opt(ge=1, le=100)
    """How often a row is there."""
    where: str | None = opt(None)
    """The expression, as in `filter`."""

    def named_columns(self) -> list[str]:
        """Those of the expression."""
        return sorted(columns_in(parse_expression(self.where))) if self.where is not None else []

    def problems(self) -> Iterator[tuple[str, str]]:
        """The expression can be read."""
        if self.where is not None:
            yield from expression_problem(self.where)
