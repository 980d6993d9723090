"""What a transform declares: `@kind("transform", "shout") class Shout(Transform)`, with its arguments as fields.

A person's own package does the same in a module that it names under the entry point `tuner.extensions`. `impl` is a module with
`STEPS = {"shout": step}`; a step takes (rows, arguments, random) and yields (index, row) for each row that stays (see
data/transforms/steps.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tuner.schema.base import Section


@dataclass(kw_only=True)
class Transform(Section):
    """One step of `data.transforms`."""

    main: ClassVar[str] = ""
    """The argument that a value alone is for: `{max_chars: 200}`; empty where there is none."""
    free: ClassVar[bool] = False
    """The mapping that stands behind the name is the main argument itself: `{rename: {old: new}}`."""
    drops: ClassVar[bool] = False
    """Whether rows may go. A step that drops is never applied to held-out rows."""
    held_out: ClassVar[bool] = True
    """Whether held-out rows get it too, where it drops none: it shapes rows, and the model will be asked in the new shape."""
    whole_set: ClassVar[bool] = False
    """Whether it must see all rows at once, so that no stream can have it."""
    columns: ClassVar[tuple[str, ...]] = ("fields",)
    """Arguments that name columns, which the rows must have."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Modules that must be there, of the optional dependencies `extra`: looked for before any row is read."""
    extra: ClassVar[str] = "clean"
    example: ClassVar[str] = ""
    """An item of `data.transforms` as it is written."""

    @property
    def shapes_held_out(self) -> bool:
        """Whether held-out rows get it too."""
        return self.held_out and not self.drops

    def named_columns(self) -> list[str]:
        """Columns that at least one row must have."""
        values = [getattr(self, argument) for argument in self.columns]
        return [name for value in values for name in ([value] if isinstance(value, str) else value)]

    def problems(self) -> Iterator[tuple[str, str]]:
        """(what is wrong, what to do) with the arguments, beyond types and ranges."""
        yield from ()


def summary(cls: type) -> str:
    """The docstring of a transform as one line."""
    return " ".join((cls.__doc__ or "").split())
