"""The rows that each of several processes takes: those of one process, none twice, none left out (`Filled`, `Even`, `share_of`)."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from tuner.model.packed import IGNORE

BLANK = -1


class Filled(Dataset[dict[str, Any]]):
    """Rows, and at the index BLANK one that teaches nothing: where a batch has fewer rows than there are processes."""

    def __init__(self, rows: Any, blank: list[dict[str, Any]] | None = None) -> None:
        self.rows = rows
        self.blank = blank or [{"input_ids": [0], "labels": [IGNORE], "blank": True}]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"rows": self.blank} if index == BLANK else cast(dict[str, Any], self.rows[index])


class Even(Sampler[int]):
    """The order that Accelerate gives one process (a permutation by seed and epoch), then BLANK up to a multiple of `multiple`.

    Accelerate would begin with the epoch's first rows again, which then count twice. With `lengths` every `batch` rows are of like length:
    the rows of `block` batches in that order are sorted, cut into batches, and these put in order by chance.
    """

    def __init__(self, rows: Any, multiple: int, *, lengths: Any = None, batch: int = 1, block: int = 1) -> None:
        self.order = SeedableRandomSampler(rows, generator=torch.Generator(), data_seed=torch.initial_seed())
        self.blanks = -len(rows) % multiple
        self.lengths, self.batch, self.block = lengths, batch, block

    def __len__(self) -> int:
        return len(self.order) + self.blanks

    def __iter__(self) -> Iterator[int]:
        order = list(self.order)
        yield from order if self.lengths is None else alike(order, self.lengths, self.batch, seed=order[0], block=self.block)
        yield from [BLANK] * self.blanks

    def set_epoch(self, epoch: int) -> None:
        """Which permutation comes next."""
        self.order.set_epoch(epoch)


def alike(order: Sequence[int], lengths: Any, batch: int, *, seed: int, block: int) -> Iterator[int]:
    """Rows in an order by chance, so that each batch has rows of like length; what does not fill a batch comes last."""
    whole = len(order) - len(order) % batch
    size, batches = block * batch, list[list[int]]()
    for first in range(0, whole, size):
        rows = sorted(order[first : min(first + size, whole)], key=lambda index: int(lengths[index]))
        batches += [rows[at : at + batch] for at in range(0, len(rows), batch)]
    random.Random(seed).shuffle(batches)
    for chosen in batches:
        yield from chosen
    yield from order[whole:]


def share_of(count: int, *, rank: int, world: int) -> list[int]:
    """Which of `count` rows a process measures; every process has as many, BLANK among them."""
    return [index if index < count else BLANK for index in range(rank, -(-count // world) * world, world)]


def places(batch: dict[str, Any]) -> int:
    """Tokens of padded rows; an image counts as one."""
    return int(batch["attention_mask"].sum()) if "attention_mask" in batch else len(batch["labels"])
