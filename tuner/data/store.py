"""Prepared rows on disk, memory-mapped: `write_rows(folder, rows)`, then `TokenRows(folder)[i]` -> `{"input_ids": …, "labels": …}`.

Three flat arrays: `ids.npy` int32 [tokens], `trained.npy` bool [tokens], `ends.npy` int64 [rows]. With packing, a row is several
conversations and `packs.npy` int64 says where each pack ends in `order.npy`, the conversations in packed order. Rows with labels
(`LabelRows`) have `types.npy` int8 [tokens] and `labels.npy`: [rows], [rows, labels], or [tokens] where each token has one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tuner.data.asked import PromptRows
from tuner.data.audio import SoundRows
from tuner.data.boxed import BoxRows
from tuner.data.chat import TokenRow
from tuner.data.painted import PaintedRows
from tuner.data.related import TextRows
from tuner.data.segmented import SegmentRows
from tuner.data.shown import SeenRows
from tuner.data.written import WrittenRows

IGNORE = -100


def write_rows(folder: Path, rows: Iterable[TokenRow]) -> None:
    """Write the arrays; the caller marks the folder as done, until then it does not count."""
    ids: list[NDArray[np.int32]] = []
    trained: list[NDArray[np.bool_]] = []
    for row in rows:
        ids.append(row.ids)
        trained.append(row.trained)
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "ids.npy", np.concatenate(ids))
    np.save(folder / "trained.npy", np.concatenate(trained))
    np.save(folder / "ends.npy", np.cumsum([len(i) for i in ids], dtype=np.int64))


def write_packs(folder: Path, lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Pack conversations by best fit decreasing into rows of `capacity` tokens, write and return the packs."""
    packs = best_fit(lengths, capacity)
    np.save(folder / "order.npy", np.asarray([i for pack in packs for i in pack], dtype=np.int64))
    np.save(folder / "packs.npy", np.cumsum([len(p) for p in packs], dtype=np.int64))
    return packs


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Each item, longest first, into the fullest bin that still takes it (best fit decreasing). Bins are kept by their free space."""
    order = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    packs: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]
    open_spaces = 0  # bit s: a bin with s free is there, so that the next larger space is one shift away
    for item in order:
        length = int(lengths[item])
        above = open_spaces >> length
        if above:
            space = length + (above & -above).bit_length() - 1
            index, left = by_space[space].pop(), space - length
            packs[index].append(item)
            if not by_space[space]:
                open_spaces ^= 1 << space
        else:
            packs.append([item])
            index, left = len(packs) - 1, capacity - length
        by_space[left].append(index)
        open_spaces |= 1 << left
    return packs


class TokenRows(Dataset[dict[str, Any]]):
    """Prepared rows. An item holds `rows`: one conversation's (or one pack's) `{"input_ids", "labels"}`, labels -100 where untrained."""

    def __init__(self, folder: Path) -> None:
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.trained = np.load(folder / "trained.npy", mmap_mode="r")
        self.ends = np.load(folder / "ends.npy")
        self.packs = np.load(folder / "packs.npy") if (folder / "packs.npy").is_file() else None
        self.order = np.load(folder / "order.npy") if self.packs is not None else None

    def __len__(self) -> int:
        return len(self.ends if self.packs is None else self.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self.packs is None or self.order is None:
            return {"rows": [self.row(index)]}
        start = self.packs[index - 1] if index else 0
        return {"rows": [self.row(int(i)) for i in self.order[start : self.packs[index]]]}

    def first(self, count: int) -> list[TokenRow]:
        """The first conversations, as they were written."""
        bounds = [0, *self.ends[:count].tolist()]
        return [TokenRow(ids=self.ids[a:b].copy(), trained=self.trained[a:b].copy(), truncated=False) for a, b in pairwise(bounds)]

    def row(self, index: int) -> dict[str, list[int]]:
        """One conversation."""
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        return as_labels(self.ids[start:end], self.trained[start:end])


class LabelRows(Dataset[dict[str, Any]]):
    """Rows with labels. An item holds one `{"input_ids", "token_type_ids", "labels"}`."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.types = np.load(folder / "types.npy", mmap_mode="r")
        self.labels = np.load(folder / "labels.npy", mmap_mode="r")
        self.ends = np.load(folder / "ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        label = self.labels[start:end] if self.each_token else self.labels[index]
        row = {"input_ids": self.ids[start:end].tolist(), "token_type_ids": self.types[start:end].tolist(), "labels": label.tolist()}
        return {"rows": [row]}

    @property
    def each_token(self) -> bool:
        """Whether each token has a label."""
        return self.labels.ndim == 1 and len(self.labels) != len(self.ends)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends, prepend=0)
        return found


def write_labelled(folder: Path, rows: Sequence[Any]) -> None:
    """Write rows with labels; the caller marks the folder as done."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = [row.label for row in rows]
    each_token = isinstance(labels[0], np.ndarray) and labels[0].dtype == np.int64
    np.save(folder / "ids.npy", np.concatenate([row.ids for row in rows]))
    np.save(folder / "types.npy", np.concatenate([row.types for row in rows]))
    np.save(folder / "labels.npy", np.concatenate(labels) if each_token else np.asarray(labels))
    np.save(folder / "ends.npy", np.cumsum([len(row.ids) for row in rows], dtype=np.int64))


class PairRows(Dataset[dict[str, Any]]):
    """Conversations two by two, the better answer first. An item holds both, and `reference`, what they are compared with."""

    packs = None

    def __init__(self, folder: Path, *, reference: NDArray[np.float32] | None = None) -> None:
        self.talks = TokenRows(folder)
        self.ends = self.talks.ends[1::2]
        self.reference = reference
        self.liked = np.load(folder / "pairs.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        before = {} if self.reference is None else {"reference": self.reference[index].tolist()}
        rows = [self.talks.row(2 * index), self.talks.row(2 * index + 1)]
        return {"rows": rows, "liked": bool(self.liked[index]), **before}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of both conversations [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends, prepend=0)
        return found


def write_pairs(folder: Path, pairs: Sequence[tuple[TokenRow, TokenRow]], liked: Sequence[bool] = ()) -> None:
    """Write pairs, and of each whether its first answer was liked (all, where nothing is said); the caller marks the folder as done."""
    write_rows(folder, [row for pair in pairs for row in pair])
    np.save(folder / "pairs.npy", np.asarray(liked or [True] * len(pairs), np.bool_))


class ImageRows(LabelRows):
    """Images with labels. An item holds one `{"pixels", "labels"}`."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pixels = open_pixels(folder)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"rows": [{"pixels": self.pixels[index], "labels": self.labels[index].tolist()}]}


def open_pixels(folder: Path) -> NDArray[np.uint8]:
    """The pixels of prepared images, memory-mapped [images, channels, height, width]."""
    size = np.load(folder / "size.npy")
    return np.memmap(folder / "pixels.bin", np.uint8, "r").reshape(-1, *size)


Stored = TokenRows | PromptRows | LabelRows | TextRows | PairRows | WrittenRows | SoundRows | PaintedRows | SeenRows | SegmentRows | BoxRows


# A file that only rows of a kind have.
KINDS: dict[str, Any] = {"source_ends": WrittenRows, "prompt_ends": PromptRows, "talk_ends": SeenRows, "text_ends": TextRows}
KINDS |= {"masked": SegmentRows, "box_ends": BoxRows, "latents": PaintedRows, "features": SoundRows}
KINDS |= {"pairs": PairRows, "size": ImageRows, "labels": LabelRows}


def stored(folder: Path) -> Stored:
    """What a prepare stage wrote."""
    found: Stored = next((kind for name, kind in KINDS.items() if (folder / f"{name}.npy").is_file()), TokenRows)(folder)
    return found


def as_labels(ids: NDArray[np.int32], trained: NDArray[np.bool_]) -> dict[str, list[int]]:
    """One conversation as the trainer takes it: labels are -100 where untrained."""
    return {"input_ids": ids.tolist(), "labels": np.where(trained, ids, IGNORE).tolist()}
