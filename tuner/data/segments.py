"""Images with masks as rows: `with Segments(processor, folder) as found: found.add(image, mask)`, then `found.rows(numbers)`.

Image and mask are resized and cut once, by the model's own image processor; the mask always by the nearest pixel, which BEiT's processor
for Pillow (Transformers 5.23) does not do by itself. What a processor pads is not labelled.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.data.images import ImageRow, Pixels
from tuner.data.labels import NOTHING
from tuner.errors import TuneError


@dataclass(slots=True, kw_only=True)
class MaskRow(ImageRow):
    """An image: its pixels [channels, height, width] and the class of each [height, width], 255 where nobody has labelled it."""

    mask: Callable[[], NDArray[np.uint8]]

    @property
    def item(self) -> dict[str, Any]:
        """The row as a trainer takes it."""
        return {"pixels": self.pixels(), "mask": self.mask()}


def turned(processor: Any, placed: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A mask (classes counted from 1, 0 for none) as the processor turns it with its image: classes from 0, 255 for none."""
    blank = Image.new("RGB", placed.shape[::-1])
    options: dict[str, Any] = {"resample": Image.Resampling.NEAREST, "do_reduce_labels": False}
    found = np.asarray(processor(blank, segmentation_maps=placed, **options)["labels"][0])
    return np.where(found == 0, NOTHING, found - 1).astype(np.uint8)


class Segments:
    """Images and masks of one size, one after the other in two files (no folder: files that go away by themselves)."""

    def __init__(self, processor: Any, folder: Path | None = None) -> None:
        """Raises TuneError (code 2) for a processor that turns no masks."""
        if "segmentation_maps" not in signature(processor.preprocess).parameters:
            what = f"{type(processor).__name__} turns no masks"
            raise TuneError(what, "model.id", "choose a model for semantic segmentation: SegFormer, UperNet, BEiT, DPT, MobileViT")
        self.pixels, self.folder = Pixels(processor, folder), folder
        self.learned: list[bool] = []
        self.file: Any = (folder / "masks.bin").open("w+b") if folder else tempfile.TemporaryFile()  # noqa: SIM115 as long as the rows live

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.pixels.__exit__()
        self.file.close()  # what `rows` has mapped stays

    def add(self, image: Image.Image, placed: NDArray[np.uint8]) -> int:
        """Append an image and its mask (classes counted from 1); their number. Raises Misfit for what comes out in another size."""
        mask = turned(self.pixels.processor, placed)
        at = self.pixels.add(image)
        if mask.shape != self.pixels.shape[1:]:
            what = f"{type(self.pixels.processor).__name__} makes {mask.shape} of a mask, and {self.pixels.shape[1:]} of its image"
            raise TuneError(what, "model.id", "choose another model")
        self.file.write(mask.tobytes())
        self.learned.append(bool((mask != NOTHING).any()))
        return at

    def rows(self, numbers: list[int]) -> list[MaskRow]:
        """The images by their numbers, each with its mask."""
        self.file.flush()
        masks = np.memmap(self.file, np.uint8, "r").reshape(-1, *self.pixels.shape[1:])
        return [
            MaskRow(
                ids=row.ids,
                types=row.types,
                trained=np.asarray([self.learned[number]]),
                label=row.label,
                truncated=False,
                index=row.index,
                pixels=row.pixels,
                mask=partial(masks.__getitem__, number),
            )
            for row, number in zip(self.pixels.rows(numbers, [0] * len(numbers)), numbers, strict=True)
        ]


def write_segments(folder: Path, rows: list[MaskRow], numbers: list[int]) -> list[MaskRow]:
    """Write which of the images that lie in the folder are learned from, and return these; the caller marks the folder as done."""
    kept = [(row, number) for row, number in zip(rows, numbers, strict=True) if row.trained.any()]
    np.save(folder / "masked.npy", np.asarray([number for _, number in kept], np.int64))
    return [row for row, _ in kept]
