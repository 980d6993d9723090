"""What numbers in masks mean: `Legend(names=("sky", "road"), numbers=(0, 1), ignored=(255,)).placed(mask)` -> 1, 2, and 0 for none."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tuner.data.labels import NOTHING, colour
from tuner.data.shapes import Example
from tuner.data.transforms.augment import content
from tuner.data.turns import Misfit

HIGHEST = 65_535  # a PNG has at most 16 bits a pixel
FEW = 20  # labels that are named in an error
NUMBERED = ("1", "L", "P", "I", "I;16")  # Pillow's modes of one number a pixel


@dataclass(frozen=True, kw_only=True)
class Legend:
    """Names of classes in their order, the number that each has in masks, and the numbers of pixels that are not labelled."""

    names: tuple[str, ...]
    numbers: tuple[int, ...]
    ignored: tuple[int, ...]

    def placed(self, mask: NDArray[Any]) -> NDArray[np.uint8]:
        """A mask's numbers as classes counted from 1, and 0 for what is not labelled [height, width]. Raises Misfit for another number."""
        known = np.full(HIGHEST + 1, -1, np.int16)
        known[list(self.ignored)] = 0
        known[list(self.numbers)] = np.arange(1, len(self.numbers) + 1)
        if mask.min() < 0 or mask.max() > HIGHEST:
            raise Misfit(f"the mask has numbers from {mask.min()} to {mask.max()}: a class has one from 0 to {HIGHEST}")
        found = known[mask]
        if (found < 0).any():
            others, counts = np.unique(mask[found < 0], return_counts=True)
            few = ", ".join(f"{name} {number}" for name, number in zip(self.names[:FEW], self.numbers, strict=False))
            few += " …" if len(self.names) > FEW else ""
            more = f", and {len(others) - 1} more such numbers" if len(others) > 1 else ""
            raise Misfit(f"the mask has the class number {others[0]} ({counts[0]:,} pixels){more}, which no label has: {few}")
        classes: NDArray[np.uint8] = found.astype(np.uint8)
        return classes


def mask_of(example: Example, size: tuple[int, int]) -> NDArray[Any]:
    """A row's mask as numbers [height, width]; `size`: its image's width and height, upright.

    Raises Misfit when it cannot be read, has another size, or has colours instead of numbers.
    """
    try:
        value = content(example, "mask")
        if isinstance(value, bytes):
            with Image.open(io.BytesIO(value)) as image:
                found = _numbers(image)
        elif isinstance(value, Image.Image):
            found = _numbers(value)
        else:
            found = np.asarray(value)  # a Hub set's array
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise Misfit(f"the mask cannot be read: {error}") from error
    if found.ndim != 2 or not np.issubdtype(found.dtype, np.integer):
        raise Misfit(f"no mask: {found.dtype} numbers of the shape {found.shape}")
    if found.shape != size[::-1]:
        raise Misfit(f"the mask has {found.shape[1]} × {found.shape[0]} pixels, and its image {size[0]} × {size[1]}")
    return found


def _numbers(image: Image.Image) -> NDArray[Any]:
    if image.format == "JPEG":
        raise Misfit("the mask is a JPEG, which changes numbers: write masks as PNG")
    upright = ImageOps.exif_transpose(image)
    if upright.mode in NUMBERED:
        values = np.asarray(upright)
        return values.astype(np.uint8) if upright.mode == "1" else values
    values = np.asarray(upright.convert("RGB")) if upright.mode == "RGB" else np.zeros((1, 1, 2), np.uint8)
    if upright.mode == "RGB" and (values == values[..., :1]).all():  # greys, written as colours
        return values[..., 0]
    what = f"the mask has colours ({upright.mode}), no numbers of classes: it is to be a PNG of one number a pixel, by palette or in grey"
    raise Misfit(what)


def coloured(classes: NDArray[np.uint8]) -> Image.Image:
    """Classes [height, width] as an image with a palette, whose numbers they are; white where nothing is labelled."""
    image = Image.fromarray(classes)  # of mode L, whose numbers stay
    palette = [part for number in range(256) for part in (colour(number) if number != NOTHING else (255, 255, 255))]
    image.putpalette(palette)
    return image
