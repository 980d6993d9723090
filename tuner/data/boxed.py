"""Prepared images with boxes on disk, memory-mapped: `BoxRows(folder)[i]` -> the image's file, boxes [n, 4] in pixels, classes [n].

The model's processor makes each batch of the files (`model/detection.py`), boxes with them; so files are kept, not pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tuner.data.shown import files_of


def item(image: bytes, boxes: NDArray[np.float32], classes: NDArray[np.int64]) -> dict[str, Any]:
    """A row as a trainer takes it."""
    return {"image": image, "boxes": boxes.tolist(), "classes": classes.tolist()}


def write_boxes(folder: Path, rows: Sequence[Any], ends: Sequence[int]) -> None:
    """Write what is learned of rows (crowds are not) whose images lie in the folder, `ends` each; the caller marks it as done."""
    learned = [~row.crowd for row in rows]
    np.save(folder / "image_ends.npy", np.asarray(ends, np.int64))
    np.save(folder / "numbers.npy", np.asarray([row.number for row in rows], np.int64))
    np.save(folder / "boxes.npy", np.concatenate([row.boxes[there] for row, there in zip(rows, learned, strict=True)]))
    np.save(folder / "classes.npy", np.concatenate([row.label[there] for row, there in zip(rows, learned, strict=True)]))
    np.save(folder / "box_ends.npy", np.cumsum([there.sum() for there in learned], dtype=np.int64))


class BoxRows(Dataset[dict[str, Any]]):
    """Prepared images with boxes. An item holds one `{"image", "boxes", "classes"}`."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.boxes, self.classes, self.box_ends = (np.load(folder / f"{name}.npy") for name in ("boxes", "classes", "box_ends"))
        self.numbers, self.image_ends = np.load(folder / "numbers.npy"), np.load(folder / "image_ends.npy")
        self.images = np.memmap(folder / "images.bin", np.uint8, "r")
        self.ends = np.arange(1, len(self.numbers) + 1)

    @property
    def first(self) -> int:
        """The first row that has a box."""
        return int(np.flatnonzero(np.diff(self.box_ends, prepend=0))[0])

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> dict[str, Any]:
        start, end = int(self.box_ends[index - 1]) if index else 0, int(self.box_ends[index])
        (image,) = files_of(self.images, self.image_ends, int(self.numbers[index]), 1)
        return {"rows": [item(image, self.boxes[start:end], self.classes[start:end])]}
