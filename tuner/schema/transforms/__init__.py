"""Transforms of rows, as declarations: `kinds("transform")["strip_html"]` is a dataclass of arguments. The code is in data/transforms/."""

from tuner.schema.transforms import augment_audio, augment_image, augment_text, chat, filters, patterns, pii, quality, rows, sampling, text  # noqa: F401  (they register themselves)  # noqa: F401  (they too)
from tuner.schema.transforms.base import Transform, summary

__all__ = ["Transform", "summary"]
