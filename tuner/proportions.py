"""How much of each source goes into a mix: `sizes(sources, [7473, 999], data)` -> rows of each; `apportioned([2, 1], 10)` -> [7, 3].

With weights: the largest mix in these proportions that uses no row twice, or `data.mix_rows` rows. With a temperature T, a source of n rows
counts weight · n^(1/T) (Raffel et al. 2020, "mixing", with no limit).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tuner.schema.data import Data


class Source(Protocol):
    """A source as far as its share is concerned."""

    @property
    def weight(self) -> float | None:
        """Against the other weights."""

    @property
    def rows(self) -> int | None:
        """Or its number of rows."""


def shares(found: Sequence[Source], counts: Sequence[int], temperature: float | None) -> list[float]:
    """Of each source its share of the mix, which add up to 1. `counts` matters only where there is a temperature."""
    most = max(counts)
    drawn = [
        (p.weight or 1.0) * ((count / most) ** (1 / temperature) if temperature else 1.0) for p, count in zip(found, counts, strict=True)
    ]
    return [part / sum(drawn) for part in drawn]


def apportioned(parts: Sequence[float], total: int) -> list[int]:
    """Whole numbers in the proportions of `parts` that add up to `total` (largest remainders)."""
    exact = [part / sum(parts) * total for part in parts]
    whole = [int(part + 1e-9) for part in exact]
    for index in sorted(range(len(whole)), key=lambda i: whole[i] - exact[i])[: total - sum(whole)]:
        whole[index] += 1
    return whole


def sizes(found: Sequence[Source], counts: Sequence[int], data: Data) -> list[int]:
    """Rows that each source gives, of the `counts` that it has; more than it has: some are used again."""
    if not (data.mix_rows or data.mix_temperature or any(p.weight for p in found)):
        return [p.rows or count for p, count in zip(found, counts, strict=True)]
    wanted = shares(found, counts, data.mix_temperature)
    if data.mix_rows:
        return apportioned(wanted, data.mix_rows)
    total = min(count / share for count, share in zip(counts, wanted, strict=True) if share)
    return [int(share * total + 1e-9) for share in wanted]
