"""What stands beside a model that reads no text: `load_image_processor(model, progress=print)`, what hears, how it writes."""

from __future__ import annotations

from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, GenerationConfig

from tuner.model.load import Progress, pretrained
from tuner.schema.model import Model


def load_image_processor(model: Model, *, progress: Progress) -> Any:
    """What makes pixel values of an image, as Pillow and NumPy do it: the same numbers on every machine. Raises TuneError (code 4)."""
    return pretrained(AutoImageProcessor, model, progress=progress, backend="pil")


def load_extractor(model: Model, *, progress: Progress) -> Any:
    """What makes numbers of a recording, as the model takes them. Raises TuneError (code 4) when it cannot be had."""
    return pretrained(AutoFeatureExtractor, model, progress=progress)


def load_generation(model: Model, *, progress: Progress) -> GenerationConfig:
    """How the model writes: what it never does, and how it begins. Raises TuneError (code 4) when it cannot be had."""
    config: GenerationConfig = pretrained(GenerationConfig, model, progress=progress)
    return config
