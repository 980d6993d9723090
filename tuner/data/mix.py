"""The sources of a run and the rows that each gives: `parts(run)` -> one Part a source, `wanted_sizes(parts, [7473, 999], data)`."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tuner.context import Run
from tuner.errors import TuneError
from tuner.proportions import sizes
from tuner.schema.data import Data, source_key, sources
from tuner.schema.transforms import Transform
from tuner.schema.transforms.reading import steps

MOST_TIMES = 1000  # that a source's rows are used again in one mix; more is a slip of the pen, and fills the memory


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


def wanted_sizes(found: Sequence[Part], counts: Sequence[int], data: Data) -> list[int]:
    """Rows that each source gives, of the `counts` that it has; more than it has: some are used again.

    Raises TuneError (code 2) when they would be used more than `MOST_TIMES` times.
    """
    wanted = sizes(found, counts, data)
    for part, count, size in zip(found, counts, wanted, strict=True):
        if size > MOST_TIMES * count:
            key = source_key(part.name, "rows") if part.rows else "data.mix_rows"
            what = f"`{part.name}` has {count:,} rows, and {size:,} are asked of it: each would be used {size // max(count, 1):,} times"
            raise TuneError(what, key, f"ask for fewer (at most {MOST_TIMES:,} times what is there), or train longer: `trainer.max_steps`")
    return wanted


def drawn(count: int, wanted: int, picked: random.Random) -> list[int]:
    """Which of `count` rows make `wanted`: all of them as often as they go into it, and a seeded choice of the rest, in their order."""
    again, rest = divmod(wanted, count)
    return [*list(range(count)) * again, *sorted(picked.sample(range(count), rest))]
