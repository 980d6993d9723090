"""Prepared conversations about images on disk, memory-mapped: `SeenRows(folder)[i]` -> ids, labels, the text and its images' files."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

IGNORE = -100


def item(ids: NDArray[np.int32], trained: NDArray[np.bool_], text: str, images: list[bytes]) -> dict[str, Any]:
    """A row as a trainer takes it."""
    return {"input_ids": ids.tolist(), "labels": np.where(trained, ids, IGNORE).tolist(), "text": text, "images": images}


def files_of(kept: NDArray[np.uint8], ends: NDArray[np.int64], first: int, count: int) -> list[bytes]:
    """So many images' files, from a number on."""
    return [kept[ends[index] : ends[index + 1]].tobytes() for index in range(first, first + count)]


def pictures_of(column: str, value: Any) -> list[Any]:
    """The images that a row has in a column: those of a list called `images`, or within messages."""
    if column == "images" and isinstance(value, list):
        return value
    turns = [turn.get("content") for turn in value if isinstance(turn, dict)] if isinstance(value, list) else []
    parts = [part for said in turns if isinstance(said, list) for part in said if isinstance(part, dict)]
    return [part.get("image", part.get("path", part.get("url"))) for part in parts if part.get("type") == "image"]


class SeenRows(Dataset[dict[str, Any]]):
    """Prepared conversations about images. An item holds one `{"input_ids", "labels", "text", "images"}`."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.ids, self.trained = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("ids", "trained"))
        self.ends, self.shown, self.talk_ends = (np.load(folder / f"{name}.npy") for name in ("ends", "shown", "talk_ends"))
        self.talks = np.memmap(folder / "talks.bin", np.uint8, "r")
        self.files = partial(files_of, np.memmap(folder / "images.bin", np.uint8, "r"), np.load(folder / "image_ends.npy"))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self.ends[index - 1]) if index else 0, int(self.ends[index])
        text = self.talks[self.talk_ends[index] : self.talk_ends[index + 1]].tobytes().decode()
        first, count = self.shown[index].tolist()
        return {"rows": [item(self.ids[start:end], self.trained[start:end], text, self.files(first, count))]}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends, prepend=0)
        return found
