"""Augmentation of images, with Pillow: `data: {transforms: [{augment_flip: {chance: 0.5}}, {augment_crop: {copies: 2}}]}`.

(AlbumentationsX is AGPL and Albumentations no longer maintained; these six are Pillow's own functions.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.augment import Augment


@dataclass(kw_only=True)
class AugmentImage(Augment):
    """A random change of an image."""

    impl = "tuner.data.transforms.augment_image"
    needs: ClassVar[tuple[str, ...]] = ("PIL",)
    columns: ClassVar[tuple[str, ...]] = ("column",)
    column: str = opt("image")
    """The column: a file's path, its bytes, or an image of a Hub dataset."""


@dataclass(kw_only=True)
class Turning(AugmentImage):
    """A random change of where things are in an image."""

    mask: str = opt("")
    """The column of a mask (`task: segment`), which is turned alike, by the nearest pixel; what is new in it has the number 255."""

    def named_columns(self) -> list[str]:
        """The mask's too, where there is one."""
        return [name for name in (self.column, self.mask) if name]


@kind("transform", "augment_flip")
@dataclass(kw_only=True)
class Flip(Turning):
    """Mirrors the image, left and right."""

    example = "augment_flip: {chance: 0.5}"
    vertical: bool = opt(False)
    """Upside down instead."""


@kind("transform", "augment_rotate")
@dataclass(kw_only=True)
class Rotate(Turning):
    """Turns the image by up to so many degrees, either way; the corners are black."""

    main, example = "degrees", "augment_rotate: 10"
    degrees: float = opt(10.0, gt=0, le=180)
    """Degrees."""


@kind("transform", "augment_crop")
@dataclass(kw_only=True)
class Crop(Turning):
    """Cuts a part out and enlarges it to the size that the image had."""

    main, example = "least", "augment_crop: {least: 0.7, copies: 1}"
    least: float = opt(0.8, gt=0, lt=1)
    """The smallest part, as a share of width and height."""


@kind("transform", "augment_colour")
@dataclass(kw_only=True)
class Colour(AugmentImage):
    """Changes brightness, contrast and colour."""

    main, example = "strength", "augment_colour: 0.2"
    strength: float = opt(0.2, gt=0, le=1)
    """How far each may be from what it was: 0.2 is 80 to 120 %."""


@kind("transform", "augment_blur")
@dataclass(kw_only=True)
class Blur(AugmentImage):
    """Blurs the image, with a Gaussian of up to this radius."""

    main, example = "radius", "augment_blur: 1.5"
    radius: float = opt(1.5, gt=0, le=100)
    """Pixels."""


@kind("transform", "augment_erase")
@dataclass(kw_only=True)
class Erase(AugmentImage):
    """Covers a rectangle with grey (random erasing, Zhong et al. 2020)."""

    main, example = "most", "augment_erase: 0.3"
    most: float = opt(0.3, gt=0, lt=1)
    """The largest rectangle, as a share of width and height."""
