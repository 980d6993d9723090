"""`task: detect` of the `task:` section: boxes with classes in images. `task: {labels: [cat, dog], image_size: 640}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Labelled


@kind("task", "detect")
@dataclass(kw_only=True)
class Detect(Labelled):
    """Objects in images: a box and a class for each (DETR, Conditional DETR, YOLOS, RT-DETR, …)."""

    impl: ClassVar[str] = "tuner.tasks.detect"
    extra: ClassVar[str] = "detect"
    head: ClassVar[str] = "detection"
    pipeline_tag: ClassVar[str] = "object-detection"
    counted: ClassVar[str] = "rows"
    whole: ClassVar[bool] = True  # images of a batch are padded to the largest of them
    planned: ClassVar[bool] = False
    # An image has no length.
    max_length: ClassVar[int] = 1  # type: ignore[misc]
    group_by_length: ClassVar[bool] = False  # type: ignore[misc]

    image_size: int | None = opt(None, affects="prepare baseline train", ge=32)
    """Make every image a square of so many pixels a side (boxes with it), here and wherever the result is used: it is saved with the
    image processor. Default: what the model's own processor does."""
