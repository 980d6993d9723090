"""Rows that are read, transformed and tokenized while training goes on: `Stream(…).batches(start=4000)` goes on after 4,000 samples.

The order is a function of the seed: the parts of a source are permuted anew in each epoch, and rows are shuffled within blocks of a part.
So the state of a stream is one integer, the number of samples that were trained. A journal in the run folder says how many samples each
block gave, and which tokens it left to the next one, by which a resumed run passes over what was trained without tokenizing it. Every rank
and worker walks through the same samples and makes only its own: their union is the same whatever their number.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count, islice, repeat
from pathlib import Path
from typing import Any, Protocol

from torch.utils.data import IterableDataset, get_worker_info

from tuner.data.formats.shards import AnyShard
from tuner.data.journal import Journal, Rest, Turn
from tuner.data.load import Rows
from tuner.errors import Problem, TuneError
from tuner.schema.data import Data, OnError

Item = dict[str, Any]


class Maker(Protocol):
    """What a task makes of rows."""

    def samples(self, rows: Rows, part: int, key: str, rest: Rest) -> tuple[Sequence[Any], Rest]:
        """The samples that a shuffled block of a source gives, as cheap as they can be counted; `key` seeds what is random. And what the
        block leaves to the next one of its source, as `rest` was left by the one before."""

    def items(self, samples: list[Any]) -> list[Item]:
        """Model-ready samples."""


@dataclass(frozen=True, kw_only=True)
class Feed:
    """One source as samples without end: its parts, with how many rows at the beginning of each are held out."""

    part: int
    data: Data
    shards: Sequence[AnyShard]
    held_out: dict[int, int]
    share: float = 1.0

    def samples(self, start: int, seed: int, maker: Maker, journal: Journal, *, writes: bool) -> Iterator[Any]:
        """Samples from number `start` on, epoch after epoch. Raises TuneError when a row cannot be used, or no part gives any sample."""
        passed, rest = 0, Rest()
        last: tuple[Turn, int] | None = None  # the block that was passed over last: the journal has what it left
        for epoch in count():
            before = passed, last, sum(map(len, rest))
            order = list(range(len(self.shards)))
            random.Random(f"{seed}:{self.part}:{epoch}").shuffle(order)
            for turn, index in enumerate(order):
                where = (self.part, epoch, turn)
                known = journal.known.get(where, [])
                if where in journal.whole and passed + sum(known) <= start:
                    passed, last = passed + sum(known), (where, len(known) - 1) if known else last
                    continue
                for block, rows in enumerate(self._blocks(index)):
                    known = journal.known.get(where, [])
                    if block < len(known) and passed + known[block] <= start:
                        passed, last = passed + known[block], (where, block)
                        continue
                    rest, last = journal.rest(*last) if last else rest, None
                    made, rest = self._made(rows, index, f"{seed}:{self.part}:{epoch}:{index}:{block}", maker, rest)
                    if writes and block == len(known):
                        skipped = [] if epoch else [f"{_settled(p.where, self.shards[index])}: {p.what}" for p in rows.skipped]
                        more = {"skipped": skipped, "rest": rest}
                        journal.note(where, block=block, samples=len(made), **{name: value for name, value in more.items() if value})
                    yield from made[max(0, start - passed) :]
                    passed += len(made)
                if writes and where not in journal.whole:
                    journal.note(where, whole=True)
            if (passed, last, sum(map(len, rest))) == before:
                raise TuneError("no row of the stream can be trained", self.shards[0].name, "look at its rows, and at `data.transforms`")

    def _blocks(self, index: int) -> Iterator[Rows]:
        """The rows of a part by blocks, without those that are held out."""
        shard, stop = self.shards[index], self.data.on_error is OnError.stop
        found = shard.rows(self.data)
        try:
            rows = Rows()
            if apart := self.held_out.get(index):
                rows.extend(shard.name, shard.form, found, stop=False, limit=apart)
            skipped = rows.skipped
            while True:
                rows = Rows()
                rows.skipped, skipped = skipped, []  # those among the held-out rows are told with the first block
                rows.extend(shard.name, shard.form, found, stop=stop, limit=self.data.shuffle_rows)
                if not rows and not rows.skipped:
                    return
                yield rows
        except TuneError as error:
            raise settled(error, shard) from error
        finally:
            found.close()  # type: ignore[attr-defined]

    def _made(self, rows: Rows, index: int, key: str, maker: Maker, rest: Rest) -> tuple[Sequence[Any], Rest]:
        order = list(range(len(rows)))
        random.Random(key).shuffle(order)
        rows = rows.take(order)
        rows.part = type(rows.part)("H", [self.part] * len(rows))
        try:
            return maker.samples(rows, self.part, key, rest) if rows else ([], rest)
        except TuneError as error:
            raise settled(error, self.shards[index]) from error


def settled(error: TuneError, shard: AnyShard) -> TuneError:
    """The error with line or row numbers of the file, where they are those of a part of it."""
    return TuneError(problems=[replace(p, where=_settled(p.where, shard)) for p in error.problems], code=error.code)


def _settled(where: str, shard: AnyShard) -> str:
    for mark in (":", ", row "):
        name, found, number = where.rpartition(mark)
        if found and name == shard.name and number.isdigit():
            return f"{name}{mark}{shard.number(int(number))}"
    return where


class Stream(IterableDataset[Any]):
    """The samples of all feeds in their shares, as micro-batches of one rank; what a worker fails at comes as an item, to be raised."""

    def __init__(self, feeds: list[Feed], maker: Maker, journal: Path, *, seed: int, micro: int) -> None:
        self.feeds, self.maker, self.journal, self.seed, self.micro = feeds, maker, journal, seed, micro
        self.start, self.rank, self.world = 0, 0, 1

    def at(self, start: int, *, rank: int = 0, world: int = 1) -> Stream:
        """The same stream from sample `start` on (of all ranks together), for one rank."""
        other = Stream(self.feeds, self.maker, self.journal, seed=self.seed, micro=self.micro)
        other.start, other.rank, other.world = start, rank, world
        return other

    def __iter__(self) -> Iterator[list[Item] | list[Problem]]:
        worker = get_worker_info()
        mine, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        found = self.samples(self.start, writes=self.rank == 0 and mine == 0)
        try:
            for batch in count():
                samples = list(islice(found, self.micro))
                if batch % self.world == self.rank and batch // self.world % workers == mine:
                    yield self.maker.items(samples)
        except TuneError as error:  # an exception would lose its fields on the way out of a worker
            yield error.problems

    def samples(self, start: int, *, writes: bool) -> Iterator[Any]:
        """Samples of all sources from number `start` on."""
        journal = Journal(self.journal).read()
        shares = [feed.share for feed in self.feeds]
        turns = schedule(shares)
        taken = [0] * len(shares)
        for index in islice(turns, start):
            taken[index] += 1
        running = [f.samples(n, self.seed, self.maker, journal, writes=writes) for f, n in zip(self.feeds, taken, strict=True)]
        for index in turns:
            yield next(running[index])


def schedule(shares: Sequence[float]) -> Iterator[int]:
    """Which source gives the next sample, for ever: always the one that is furthest behind its share."""
    if len(shares) == 1:
        yield from repeat(0)
    behind = [0.0] * len(shares)
    while True:
        behind = [b + share for b, share in zip(behind, shares, strict=True)]
        index = max(range(len(shares)), key=behind.__getitem__)
        behind[index] -= 1
        yield index
