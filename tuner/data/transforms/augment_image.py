"""Steps that augment images, by Pillow: `STEPS["augment_flip"]`. What each does is said in schema/transforms/augment_image.py."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tuner.data.transforms.augment import Change, augmented, content, remade
from tuner.data.transforms.steps import Row, Step
from tuner.schema.transforms.augment_image import Turning

Picture = Image.Image
Changed = Callable[[Picture, Any, random.Random, bool], Picture]  # of an image, or (true) of its mask
MODES = ("RGB", "RGBA", "L")
NEW = 255  # in a mask, where a turn left nothing


def _images(change: Changed) -> Step:
    """A step that changes a column of images, and the mask that it is to turn alike. A file is written as it was read: JPEG, else PNG."""

    def of(step: Any) -> Change:
        def augment(row: Row, own: random.Random) -> Row:
            before = own.getstate()
            made = _changed(row, step.column, lambda image: change(_plain(image), step, own, False))
            if not isinstance(step, Turning) or not step.mask:
                return made
            own.setstate(before)
            return _changed(made, step.mask, lambda mask: change(_numbers(mask), step, own, True))

        return augment

    return augmented(of, key=_key)


def _changed(row: Row, column: str, change: Callable[[Picture], Picture]) -> Row:
    value = content(row, column)
    if isinstance(value, Picture):
        return row | {column: change(value)}
    if not isinstance(value, bytes):
        raise ValueError(f"`{column}` is no image: {value!r:.60}")
    try:
        with Image.open(io.BytesIO(value)) as image:
            form, made = image.format, change(image)
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"`{column}` cannot be read as an image: {error}") from error
    written = io.BytesIO()
    made.save(written, "JPEG", quality=95) if form == "JPEG" else made.save(written, "PNG")
    return remade(row, column, written)


def _key(step: Any, row: Row) -> Any:
    value = content(row, step.column)
    return value.tobytes() if isinstance(value, Picture) else value


def _plain(image: Picture) -> Picture:
    """Upright, in a mode that Pillow's functions take."""
    upright = ImageOps.exif_transpose(image)
    return upright if upright.mode in MODES else upright.convert("RGBA" if "transparency" in upright.info else "RGB")


def _numbers(mask: Picture) -> Picture:
    """A mask upright, its numbers as they are; of true and false 1 and 0."""
    upright = ImageOps.exif_transpose(mask)
    return upright.convert("L").point(lambda value: value // 255) if upright.mode == "1" else upright


def _flipped(image: Picture, step: Any, own: random.Random, mask: bool) -> Picture:
    return ImageOps.flip(image) if step.vertical else ImageOps.mirror(image)


def _rotated(image: Picture, step: Any, own: random.Random, mask: bool) -> Picture:
    degrees = own.uniform(-step.degrees, step.degrees)
    if mask:
        return image.rotate(degrees, resample=Image.Resampling.NEAREST, fillcolor=NEW)
    return image.rotate(degrees, resample=Image.Resampling.BICUBIC)


def _cropped(image: Picture, step: Any, own: random.Random, mask: bool) -> Picture:
    share = own.uniform(step.least, 1)
    width, height = share * image.width, share * image.height
    left, top = own.uniform(0, image.width - width), own.uniform(0, image.height - height)
    how = Image.Resampling.NEAREST if mask else Image.Resampling.BICUBIC
    return image.resize(image.size, how, box=(left, top, left + width, top + height))


def _coloured(image: Picture, step: Any, own: random.Random, mask: bool) -> Picture:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(own.uniform(1 - step.strength, 1 + step.strength))
    return image


def _erased(image: Picture, step: Any, own: random.Random, mask: bool) -> Picture:
    width, height = (max(1, round(own.uniform(0, step.most) * side)) for side in image.size)
    left, top = own.randint(0, image.width - width), own.randint(0, image.height - height)
    made = image.copy()
    made.paste(Image.new("RGB", (width, height), (128, 128, 128)).convert(image.mode), (left, top))
    return made


STEPS: dict[str, Step] = {
    "augment_flip": _images(_flipped),
    "augment_rotate": _images(_rotated),
    "augment_crop": _images(_cropped),
    "augment_colour": _images(_coloured),
    "augment_blur": _images(lambda image, step, own, mask: image.filter(ImageFilter.GaussianBlur(own.uniform(0, step.radius)))),
    "augment_erase": _images(_erased),
}
