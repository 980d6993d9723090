"""Objects in images: `read({"image": "a.png", "objects": {"bbox": [[1, 2, 30, 40]], "category": ["cat"]}})` -> an Example with boxes.

A box is what COCO has: x and y of its upper left corner, width and height, in pixels of the image as it is seen (turned upright).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.data.labelled import LabelRow
from tuner.data.labels import Labels
from tuner.data.shapes import Example
from tuner.data.turns import Misfit

OVER = 1.0  # pixels that a box may reach beyond its image: what rounding leaves


@dataclass(slots=True, kw_only=True)
class BoxRow(LabelRow):
    """An image with objects: boxes [n, 4], their classes (`label` [n]), which are crowds [n], and its width and height.

    `ids` is what tells the image from others, `number` which file of the album it is.
    """

    boxes: NDArray[np.float32]
    crowd: NDArray[np.bool_]
    wide: int
    high: int
    number: int


def boxed(example: Example, labels: Labels, image: Image.Image, *, number: int) -> BoxRow:
    """A row with numbers for its categories; `number` is that of its image in the album.

    Raises Misfit for a box that cannot be one of this image."""
    objects, size = example["objects"], image.size
    classes = []
    for place, one in enumerate(objects, 1):
        _within(one["bbox"], size, place)
        try:
            classes.append(labels.number(one["category"]))
        except Misfit as misfit:
            raise Misfit(f"object {place}: {misfit}") from misfit
    return BoxRow(
        ids=np.asarray([int.from_bytes(hashlib.blake2b(image.tobytes(), digest_size=7).digest())], np.int64),
        types=np.zeros(1, np.int8),
        trained=np.ones(1, np.bool_),
        label=np.asarray(classes, np.int64),
        truncated=False,
        index=number,
        boxes=np.asarray([one["bbox"] for one in objects], np.float32).reshape(-1, 4),
        crowd=np.asarray([one["crowd"] for one in objects], np.bool_),
        wide=size[0],
        high=size[1],
        number=number,
    )


def _within(box: list[float], size: tuple[int, int], place: int) -> None:
    x, y, wide, high = box
    if wide <= 0 or high <= 0:
        raise Misfit(f"object {place}: its box {box} has no {'width' if wide <= 0 else 'height'}")
    if x < -OVER or y < -OVER or x + wide > size[0] + OVER or y + high > size[1] + OVER:
        corners = 0 <= x < wide <= size[0] + OVER and 0 <= y < high <= size[1] + OVER
        hint = ": are these two corners? A box is x, y, width, height" if corners else ""
        raise Misfit(f"object {place}: its box {box} reaches beyond the image, which has {size[0]} × {size[1]} pixels{hint}")
    if max(box) <= 1 and min(size) > 2:
        raise Misfit(f"object {place}: its box {box} is within one pixel: are these shares of the image? A box is in pixels")
