"""What stands beside a model that reads no text: `load_image_processor(model, progress=print)`, what hears, how it writes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from transformers import AutoFeatureExtractor, AutoImageProcessor, AutoProcessor, GenerationConfig, ProcessorMixin

from tuner.data.chat import ensure_template
from tuner.errors import TuneError
from tuner.model.load import Progress, pretrained
from tuner.schema.model import Model


def load_image_processor(model: Model, *, progress: Progress) -> Any:
    """What makes pixel values of an image, as Pillow and NumPy do it: the same numbers on every machine. Raises TuneError (code 4)."""
    return pretrained(AutoImageProcessor, model, progress=progress, backend="pil")


def load_box_processor(model: Model, *, size: int | None, progress: Progress) -> Any:
    """What makes pixel values of an image, and turns boxes with it. `size`: pixels of each side, instead of what it does by itself.

    Raises TuneError (code 4) when it cannot be had, code 2 for one that turns no boxes.
    """
    processor = load_image_processor(model, progress=progress)
    if "annotations" not in inspect.signature(type(processor).preprocess).parameters:
        what = f"{type(processor).__name__} turns no boxes with its images"
        raise TuneError(what, "model.id", "choose a model that finds objects: DETR, Conditional DETR, YOLOS, RT-DETR, …")
    if size is not None:
        processor.size, processor.do_resize = {"height": size, "width": size}, True
    return processor


def load_extractor(model: Model, *, progress: Progress) -> Any:
    """What makes numbers of a recording, as the model takes them. Raises TuneError (code 4) when it cannot be had."""
    return pretrained(AutoFeatureExtractor, model, progress=progress)


def load_generation(model: Model, *, progress: Progress) -> GenerationConfig:
    """How the model writes: what it never does, and how it begins. Raises TuneError (code 4) when it cannot be had."""
    config: GenerationConfig = pretrained(GenerationConfig, model, progress=progress)
    return config


def load_processor(model: Model, *, progress: Progress) -> Any:
    """What makes inputs of images and texts, with the recipe's chat template where it has one, which its tokenizer has too.

    Raises TuneError (code 4) when it cannot be had, code 2 for a model that sees no images, or does not chat.
    """
    processor = pretrained(AutoProcessor, model, progress=progress, backend="pil")
    whole = isinstance(processor, ProcessorMixin) and {"image_processor", "tokenizer"} <= set(processor.get_attributes())
    if not whole or not processor.all_special_multimodal_tokens:
        what = f"{type(processor).__name__} makes no inputs of images and texts with marks where the images stand"
        raise TuneError(what, "model.id", "choose a model that sees and writes: Qwen-VL, Idefics3, LLaVA, …")
    template = model.chat_template
    if template is not None and Path(template).expanduser().is_file():
        template = Path(template).expanduser().read_text(encoding="utf-8")
    processor.tokenizer.chat_template = processor.chat_template or processor.tokenizer.chat_template
    if template is None and processor.tokenizer.chat_template is None:
        fix = "set `model.chat_template`, or choose a model that was tuned to chat"
        raise TuneError("the model has no chat template, which says where images stand", "model.chat_template", fix)
    ensure_template(processor.tokenizer, template)
    processor.chat_template = processor.tokenizer.chat_template
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor
