"""Images with labels as rows: `encoded(found, labels, processor, path)` -> ImageRows whose pixels lie in a file.

Each image is resized once, by the model's own processor, and kept as bytes (a ViT's takes 150 KB, a quarter of what its floats would);
rescaling and normalising are left to the batch (`model/pictures.py`), which gives the numbers that the processor gives.
"""

from __future__ import annotations

import base64
import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tuner.data.labelled import LabelRow
from tuner.data.shapes import Example
from tuner.data.transforms.augment import content
from tuner.data.turns import Misfit

THUMBNAIL = 96  # pixels of its longer side
AT_ONCE = 256  # tokens that an image stands for where a batch is as many as there is room for: 32 of them


@dataclass(slots=True, kw_only=True)
class ImageRow(LabelRow):
    """An image: its pixels [channels, height, width] and its label; `ids` is what tells it from others."""

    pixels: Callable[[], NDArray[np.uint8]]

    @property
    def item(self) -> dict[str, Any]:
        """The row as a trainer takes it."""
        label = self.label.tolist() if isinstance(self.label, np.ndarray) else self.label
        return {"pixels": self.pixels(), "labels": label}

    @property
    def size(self) -> int:
        """What it takes in a batch."""
        return AT_ONCE


def opened(example: Example) -> Image.Image:
    """A row's image, upright and in three colours. Raises Misfit when it cannot be read."""
    try:
        value = content(example, "image")
        if isinstance(value, bytes):
            with Image.open(io.BytesIO(value)) as image:
                return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Misfit(f"the image cannot be read: {error}") from error
    if not isinstance(value, Image.Image):
        raise Misfit(f"no image: {value!r:.60}")
    return ImageOps.exif_transpose(value).convert("RGB")


def squared(image: Image.Image, side: int) -> tuple[Image.Image, list[int]]:
    """An image resized so that its shorter side is `side`, the longer one cut to it; and six numbers that SDXL is told."""
    width, height = image.size
    scale = side / min(width, height)
    made = image.resize((max(side, round(width * scale)), max(side, round(height * scale))), Image.Resampling.LANCZOS)
    left, top = (made.width - side) // 2, (made.height - side) // 2
    return made.crop((left, top, left + side, top + side)), [height, width, top, left, side, side]


class Pixels:
    """Images of one size, one after the other in a file (none: one that goes away by itself)."""

    def __init__(self, processor: Any, folder: Path | None = None) -> None:
        self.processor, self.folder = processor, folder
        self.shape: tuple[int, ...] = ()
        self.names: list[int] = []
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self.file: Any = (folder / "pixels.bin").open("w+b") if folder else tempfile.TemporaryFile()  # noqa: SIM115 as long as the rows live

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()  # what `rows` has mapped stays

    def add(self, image: Image.Image) -> int:
        """Resize an image and append it; its number. Raises Misfit for one that comes out in another size."""
        made = self.processor(image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"][0].astype(np.uint8)
        if self.shape not in ((), made.shape):
            raise Misfit(f"the model's processor makes {made.shape} of it, and {self.shape} of those before it: one size is needed")
        self.shape = made.shape
        written = made.tobytes()
        self.file.write(written)
        self.names.append(int.from_bytes(hashlib.blake2b(written, digest_size=7).digest()))
        return len(self.names) - 1

    def rows(self, numbers: list[int], labels: list[Any]) -> list[ImageRow]:
        """The images by their numbers, each with its label."""
        self.file.flush()
        if self.folder:
            np.save(self.folder / "size.npy", np.asarray(self.shape))
        pixels = np.memmap(self.file, np.uint8, "r").reshape(-1, *self.shape)
        return [
            ImageRow(
                ids=np.asarray([self.names[number]], np.int64),
                types=np.zeros(1, np.int8),
                trained=np.ones(1, np.bool_),
                label=label,
                truncated=False,
                index=index,
                pixels=partial(pixels.__getitem__, number),
            )
            for index, (number, label) in enumerate(zip(numbers, labels, strict=True))
        ]


def name_of(example: Example, index: int) -> str:
    """What an image is called: its file's name."""
    value = example["image"]
    path = value.get("path") if isinstance(value, dict) else value
    return os.path.basename(path) if isinstance(path, str) else f"image {index + 1}"


def thumbnail(image: Image.Image, side: int = THUMBNAIL) -> str:
    """A small image as a `data:` address."""
    small, written = image.copy(), io.BytesIO()
    small.thumbnail((side, side))
    small.save(written, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode()
