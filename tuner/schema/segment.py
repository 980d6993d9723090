"""`task: segment` of the `task:` section: a class for every pixel. `task: {labels: [background, road], reduce_labels: false}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Labelled


@kind("task", "segment")
@dataclass(kw_only=True)
class Segment(Labelled):
    """A class for every pixel of an image (SegFormer, UperNet, BEiT, DPT, MobileViT): semantic segmentation."""

    impl: ClassVar[str] = "tuner.tasks.segment"
    extra: ClassVar[str] = "vision"
    head: ClassVar[str] = "segment"
    pipeline_tag: ClassVar[str] = "image-segmentation"
    planned: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"
    # An image has no length: its processor makes all of one size.
    max_length: ClassVar[int] = 1  # type: ignore[misc]
    group_by_length: ClassVar[bool] = False  # type: ignore[misc]

    numbers: list[int] = opt(factory=list, affects="prepare baseline train")
    """The number that each of `task.labels` has in the masks, in their order: `[7, 8, 11]`; none: 0, 1, 2, …"""
    ignore: list[int] = opt(factory=lambda: [255], affects="prepare baseline train")
    """Numbers in masks of pixels that nobody has labelled: they teach nothing and are not measured."""
    reduce_labels: bool = opt(False, affects="prepare baseline train")
    """The labels have the numbers 1, 2, 3, … in masks, and 0 is none of them, as in ADE20K; whatever the model's own processor says."""
