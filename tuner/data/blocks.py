"""The blocks of any stream, before a task sees them: `blocks(run, rows, layouts).cleaned(block, 0, key)`; `flow(…)` -> the Stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tuner.context import Run
from tuner.data import contamination
from tuner.data.heads import JOURNAL, heads
from tuner.data.layout import Layout
from tuner.data.load import Rows
from tuner.data.mix import Part, parts
from tuner.data.splits import held_out
from tuner.data.stream import Maker, Stream
from tuner.data.transform import apply
from tuner.errors import TuneError
from tuner.extensions import load_planned
from tuner.registry import load_extensions
from tuner.schema.data import Contamination, Data, source_key
from tuner.schema.transforms.reading import steps


@dataclass
class Blocks:
    """What is known of a stream's sources: their steps and layouts, and the rows that are held out."""

    data: Data
    parts: list[Part]
    layouts: list[Layout]
    held_out: Rows
    extensions: dict[str, str]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A worker knows a person's own steps before it looks for any."""
        load_extensions()
        load_planned(state["extensions"])
        self.__dict__.update(state)

    def cleaned(self, rows: Rows, part: int, key: str) -> Rows:
        """A block of a source as its steps, and those of the whole, leave it; without what repeats held-out rows, where it is dropped."""
        rows, _ = apply(rows, self.parts[part].transforms, seed=f"{key}:own", block=True)
        rows, _ = apply(rows, steps(self.data.transforms), seed=key, block=True)
        if self.data.contamination is not Contamination.drop or not self.held_out:
            return rows
        gone = set(contamination.overlap(rows, self.held_out).rows)
        return rows.take(i for i in range(len(rows)) if i not in gone)


def blocks(run: Run, rows: Rows, layouts: Sequence[Layout]) -> Blocks:
    """Of a run; `layouts`: of the sources of its first `rows`, in order. Raises TuneError (code 2) where a source has none of them."""
    found, known = parts(run), dict(zip(sorted(set(rows.part)), layouts, strict=True))
    for number, part in enumerate(found):
        if number not in known:
            where = source_key(part.name, "transforms")
            raise TuneError(
                f"no row of the beginning of {part.name or 'the stream'} is left: nothing tells how its rows are laid out",
                where,
                "look at them",
            )
    return Blocks(
        data=run.recipe.data,
        parts=found,
        layouts=[known[number] for number in range(len(found))],
        held_out=held_out(run),
        extensions=run.plan.extensions,
    )


def flow(run: Run, maker: Maker, *, micro: int) -> Stream:
    """The training rows of a run whose data is streamed, as a task makes them."""
    feeds = [head.feed(number) for number, head in enumerate(heads(run))]
    return Stream(feeds, maker, run.folder / JOURNAL, seed=run.recipe.seed, micro=micro)
