"""The sources of a run and how much of each is used: `parts(run)` -> one Part a source, `sizes([7473, 999], weights, …)` -> rows of each.

With weights: the largest mix in these proportions that uses no row twice, or `data.mix_rows` rows. With a temperature T, a source of n rows
counts weight · n^(1/T) (Raffel et al. 2020, "mixing", with no limit).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.context import Run
from tuner.schema.data import Data, source_key, sources
from tuner.schema.transforms import Transform
from tuner.schema.transforms.reading import steps


@dataclass(frozen=True, kw_only=True)
class Part:
    """One source: `data` as if it stood alone, its files; its weight or number of rows in the mix."""

    name: str
    data: Data
    files: list[str]
    weight: float | None = None
    rows: int | None = None

    @property
    def transforms(self) -> list[Transform]:
        """The steps that its rows alone get."""
        return steps(self.data.transforms)


def parts(run: Run) -> list[Part]:
    """The sources of a recipe: one, or those of its mix in the order in which they are written."""
    data, found = run.recipe.data, []
    for name, source in sources(data).items():
        files = run.plan.files.get(source_key(name, "path"), [])
        mixed = data.mix.get(name)
        found.append(Part(name=name, data=source, files=files, weight=mixed.weight if mixed else None, rows=mixed.rows if mixed else None))
    return found


def shares(found: Sequence[Part], counts: Sequence[int], temperature: float | None) -> list[float]:
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


def sizes(found: Sequence[Part], counts: Sequence[int], data: Data) -> list[int]:
    """Rows that each source gives, of the `counts` that it has; more than it has: some are used again."""
    if not (data.mix_rows or data.mix_temperature or any(p.weight for p in found)):
        return [p.rows or count for p, count in zip(found, counts, strict=True)]
    wanted = shares(found, counts, data.mix_temperature)
    if data.mix_rows:
        return apportioned(wanted, data.mix_rows)
    total = min(count / share for count, share in zip(counts, wanted, strict=True) if share)
    return [int(share * total + 1e-9) for share in wanted]


def drawn(count: int, wanted: int, picked: random.Random) -> list[int]:
    """Which of `count` rows make `wanted`: all of them as often as they go into it, and a seeded choice of the rest, in their order."""
    again, rest = divmod(wanted, count)
    return [*list(range(count)) * again, *sorted(picked.sample(range(count), rest))]
