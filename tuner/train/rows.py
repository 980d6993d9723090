"""The rows that each of several processes takes: those of one process, none twice, none left out (`Filled`, `Even`, `share_of`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from accelerate.data_loader import SeedableRandomSampler
from torch.utils.data import Dataset, Sampler

from tuner.model.packed import IGNORE

BLANK = -1


class Filled(Dataset[dict[str, Any]]):
    """Rows, and at the index BLANK one that teaches nothing: where a batch has fewer rows than there are processes."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return (
            {"rows": [{"input_ids": [0], "labels": [IGNORE], "blank": True}]} if index == BLANK else cast(dict[str, Any], self.rows[index])
        )


class Even(Sampler[int]):
    """The order that Accelerate gives one process (a permutation by seed and epoch), then BLANK up to a multiple of `multiple`.

    Accelerate would begin with the epoch's first rows again, which then count twice.
    """

    def __init__(self, rows: Any, multiple: int) -> None:
        self.order = SeedableRandomSampler(rows, generator=torch.Generator(), data_seed=torch.initial_seed())
        self.blanks = -len(rows) % multiple

    def __len__(self) -> int:
        return len(self.order) + self.blanks

    def __iter__(self) -> Iterator[int]:
        yield from self.order
        yield from [BLANK] * self.blanks

    def set_epoch(self, epoch: int) -> None:
        """Which permutation comes next."""
        self.order.set_epoch(epoch)


def share_of(count: int, *, rank: int, world: int) -> list[int]:
    """Which of `count` rows a process measures; every process has as many, BLANK among them."""
    return [index if index < count else BLANK for index in range(rank, -(-count // world) * world, world)]
