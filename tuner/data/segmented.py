"""Prepared images with masks on disk, memory-mapped: `SegmentRows(folder)[i]` -> `{"rows": [{"pixels": …, "mask": …}]}`.

`pixels.bin` uint8 [images, channels, height, width], `masks.bin` uint8 [images, height, width] (255: not labelled), `size.npy`, and
`masked.npy`: which of the images are learned from.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset


class SegmentRows(Dataset[dict[str, Any]]):
    """Images with masks. An item holds one `{"pixels", "mask"}`."""

    packs = None

    def __init__(self, folder: Path) -> None:
        size = np.load(folder / "size.npy")
        self.pixels: NDArray[np.uint8] = np.memmap(folder / "pixels.bin", np.uint8, "r").reshape(-1, *size)
        self.masks: NDArray[np.uint8] = np.memmap(folder / "masks.bin", np.uint8, "r").reshape(-1, *size[1:])
        self.chosen = np.load(folder / "masked.npy")
        self.ends = np.arange(1, len(self.chosen) + 1)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> dict[str, Any]:
        at = int(self.chosen[index])
        return {"rows": [{"pixels": self.pixels[at], "mask": self.masks[at]}]}
