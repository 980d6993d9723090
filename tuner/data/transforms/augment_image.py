"""Steps that augment images, by Pillow: `STEPS["augment_flip"]`. What each does is said in schema/transforms/augment_image.py."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from tuner.data.transforms.augment import Change, augmented, content, remade
from tuner.data.transforms.steps import Row, Step

Picture = Image.Image
MODES = ("RGB", "RGBA", "L")


def _images(change: Callable[[Picture, Any, random.Random], Picture]) -> Step:
    """A step that changes a column of images. A file is written as it was read: JPEG, else PNG."""

    def of(step: Any) -> Change:
        def augment(row: Row, own: random.Random) -> Row:
            value = content(row, step.column)
            if isinstance(value, Picture):
                return row | {step.column: change(_plain(value), step, own)}
            if not isinstance(value, bytes):
                raise ValueError(f"`{step.column}` is no image: {value!r:.60}")
            try:
                with Image.open(io.BytesIO(value)) as image:
                    form, made = image.format, change(_plain(image), step, own)
            except (OSError, SyntaxError, Image.DecompressionBombError) as error:
                raise ValueError(f"`{step.column}` cannot be read as an image: {error}") from error
            written = io.BytesIO()
            made.save(written, "JPEG", quality=95) if form == "JPEG" else made.save(written, "PNG")
            return remade(row, step.column, written)

        return augment

    return augmented(of, key=_key)


def _key(step: Any, row: Row) -> Any:
    value = content(row, step.column)
    return value.tobytes() if isinstance(value, Picture) else value


def _plain(image: Picture) -> Picture:
    """Upright, in a mode that Pillow's functions take."""
    upright = ImageOps.exif_transpose(image)
    return upright if upright.mode in MODES else upright.convert("RGBA" if "transparency" in upright.info else "RGB")


def _rotated(image: Picture, step: Any, own: random.Random) -> Picture:
    return image.rotate(own.uniform(-step.degrees, step.degrees), resample=Image.Resampling.BICUBIC)


def _cropped(image: Picture, step: Any, own: random.Random) -> Picture:
    share = own.uniform(step.least, 1)
    width, height = share * image.width, share * image.height
    left, top = own.uniform(0, image.width - width), own.uniform(0, image.height - height)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def _coloured(image: Picture, step: Any, own: random.Random) -> Picture:
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(own.uniform(1 - step.strength, 1 + step.strength))
    return image


def _erased(image: Picture, step: Any, own: random.Random) -> Picture:
    width, height = (max(1, round(own.uniform(0, step.most) * side)) for side in image.size)
    left, top = own.randint(0, image.width - width), own.randint(0, image.height - height)
    made = image.copy()
    made.paste(Image.new("RGB", (width, height), (128, 128, 128)).convert(image.mode), (left, top))
    return made


STEPS: dict[str, Step] = {
    "augment_flip": _images(lambda image, step, own: ImageOps.flip(image) if step.vertical else ImageOps.mirror(image)),
    "augment_rotate": _images(_rotated),
    "augment_crop": _images(_cropped),
    "augment_colour": _images(_coloured),
    "augment_blur": _images(lambda image, step, own: image.filter(ImageFilter.GaussianBlur(own.uniform(0, step.radius)))),
    "augment_erase": _images(_erased),
}
