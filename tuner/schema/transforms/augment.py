"""What augmenting steps have in common: `copies` beside each row or a change of the row itself, on training rows alone, drawn by `seed`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tuner.schema.base import opt
from tuner.schema.transforms.base import Transform


@dataclass(kw_only=True)
class Augment(Transform):
    """A random change of a row, the same whatever other rows there are."""

    held_out, extra = False, "augment"
    copies: int = opt(0, ge=0, le=100)
    """Changed rows that are put behind each row; 0: the row itself is changed."""
    chance: float = opt(1.0, gt=0, le=1)
    """Share of the rows that it happens to."""


@dataclass(kw_only=True)
class Ranged(Augment):
    """A change by an amount that is drawn between two."""

    least: float = opt(0.0)
    """The smallest amount."""
    most: float = opt(0.0)
    """The largest amount."""
    above: ClassVar[float] = 0.0
    """All amounts are larger."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """The range is one."""
        if not self.above < self.least <= self.most:
            yield f"`least` and `most` are no range above {self.above:g}: {self.least:g} to {self.most:g}", f"as `- {self.example}`"
