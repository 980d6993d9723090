"""Images and captions as a diffusion model learns them, on disk: `Latents(folder).add(…)`, `write_said(…)`, then `PaintedRows(folder)[i]`.

Both are encoded once, by the model's own frozen parts. `latents.npy` float16 [images, 2, channels, height, width] holds mean and standard
deviation of what the autoencoder says (scaled as the model takes it), `prompts.npy` [captions + 1, tokens, width] what the text encoders
say of each caption, the first that of none; `pooled.npy` is there where the model asks for it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

Numbers = NDArray[np.float16]
SIZES = 6  # numbers of an image that SDXL is told: height and width, where it was cut, height and width that it has


class Latents:
    """Encoded images, appended to a file; `close` makes an array of it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.sizes, self.shape = folder, list[list[int]](), tuple[int, ...]()
        self.marks = list[int]()  # what tells one image from another
        self.stream = (folder / "latents.part").open("wb")

    def add(self, latents: Numbers, sizes: list[int]) -> int:
        """Append an image [2, channels, height, width]; its number."""
        self.shape = latents.shape
        written = np.ascontiguousarray(latents).tobytes()
        self.stream.write(written)
        self.marks.append(zlib.crc32(written))
        self.sizes.append(sizes)
        return len(self.sizes) - 1

    def close(self) -> None:
        """Write the arrays, where there is any image."""
        self.stream.close()
        if not self.sizes:
            return
        part = self.folder / "latents.part"
        written = np.memmap(part, np.float16, mode="r", shape=(len(self.sizes), *self.shape))
        np.save(self.folder / "latents.npy", written)
        np.save(self.folder / "sizes.npy", np.asarray(self.sizes, np.float32))
        del written
        part.unlink()


def write_said(folder: Path, number: Sequence[int], said: Iterable[tuple[Numbers, Numbers | None]]) -> None:
    """Write what the text encoders say of no caption and then of each [tokens, width], pooled too; and which of them each image has."""
    np.save(folder / "said.npy", np.asarray(number, np.int64))
    whole, pooled = np.zeros((0, 0, 0), np.float16), list[Numbers]()
    for index, (prompt, other) in enumerate(said):
        if not index:  # a caption may take megabytes: they are not all held at once
            shape = (max(number) + 1, *prompt.shape)
            whole = np.lib.format.open_memmap(folder / "prompts.npy", mode="w+", dtype=np.float16, shape=shape)
        whole[index] = prompt
        pooled += [] if other is None else [other]
    cast(np.memmap[Any, Any], whole).flush()
    if pooled:
        np.save(folder / "pooled.npy", np.stack(pooled))


class PaintedRows(Dataset[dict[str, Any]]):
    """Prepared images. An item holds one `{"latents", "prompt", "pooled", "sizes", "row"}`, `row` its number."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.latents = np.load(folder / "latents.npy", mmap_mode="r")
        self.sizes = np.load(folder / "sizes.npy")
        self.said = np.load(folder / "said.npy")
        self.prompts = np.load(folder / "prompts.npy", mmap_mode="r")
        pooled = folder / "pooled.npy"
        self.pooled = np.load(pooled, mmap_mode="r") if pooled.is_file() else np.zeros((len(self.prompts), 0), np.float16)
        self.ends = np.arange(1, len(self.said) + 1)

    def __len__(self) -> int:
        return len(self.said)

    def __getitem__(self, index: int) -> dict[str, Any]:
        said = int(self.said[index])
        row = {"latents": self.latents[index], "prompt": self.prompts[said], "pooled": self.pooled[said]}
        return {"rows": [row | {"sizes": self.sizes[index], "row": index}]}
