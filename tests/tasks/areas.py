"""Projects for tests of masks: `lab = areas.shapes(folder)` over a tiny SegFormer: circles and squares on grey, a class each."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image, ImageDraw
from transformers import (
    BeitConfig,
    BeitForSemanticSegmentation,
    BeitImageProcessorPil,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    set_seed,
)

from tests.lab import Lab

NAMES = ["background", "circle", "square"]
RECIPE = """\
# small — a test
defaults: [{task: segment}]
model: {id: MODEL, dtype: float32}
task: {labels: [background, circle, square]}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""


@cache
def segformer() -> Path:
    """A tiny SegFormer for images of 32 pixels with two labels of something else, made once in a test session."""
    folder = Path(mkdtemp(prefix="segformer-"))
    set_seed(0)
    config = SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[1, 1],
        hidden_sizes=[16, 32],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[2, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        classifier_dropout_prob=0.0,
        drop_path_rate=0.0,
        initializer_range=0.1,
        num_labels=2,
        dtype="float32",
    )
    SegformerForSemanticSegmentation(config).save_pretrained(folder)
    SegformerImageProcessorPil(size={"height": 32, "width": 32}, do_reduce_labels=True).save_pretrained(folder)
    return folder


@cache
def beit() -> Path:
    """A tiny BEiT with an auxiliary head, whose processor cuts the middle out."""
    folder = Path(mkdtemp(prefix="beit-"))
    set_seed(0)
    config = BeitConfig(
        image_size=32,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        out_indices=[1, 2, 3, 4],
        pool_scales=[1, 2],
        auxiliary_channels=16,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        drop_path_rate=0.0,
        use_absolute_position_embeddings=True,
        initializer_range=0.1,
        num_labels=3,
        dtype="float32",
    )
    BeitForSemanticSegmentation(config).save_pretrained(folder)
    size = {"height": 40, "width": 40}
    crop = {"height": 32, "width": 32}
    BeitImageProcessorPil(size=size, crop_size=crop, do_center_crop=True).save_pretrained(folder)
    return folder


def drawing(chance: random.Random) -> tuple[Image.Image, Image.Image]:
    """A circle and a square somewhere on grey, and the mask of both."""
    width, height = chance.randint(30, 48), chance.randint(30, 48)
    image, mask = Image.new("RGB", (width, height), (chance.randint(100, 150),) * 3), Image.new("L", (width, height), 0)
    for number in chance.sample((1, 2), 2):
        side = chance.randint(10, 20)
        left, top = chance.randint(0, width - side), chance.randint(0, height - side)
        fill = ((200, 30, 30), (30, 30, 200))[number - 1]
        for target, paint in ((image, fill), (mask, number)):
            draw = ImageDraw.Draw(target)
            shape = draw.ellipse if number == 1 else draw.rectangle
            shape((left, top, left + side, top + side), fill=paint)
    return image, mask


def shapes(
    folder: Path,
    *,
    rows: int = 24,
    held_out: int = 8,
    model: Path | None = None,
    masked: Callable[[Image.Image], Image.Image] = lambda mask: mask,
) -> Lab:
    """Drawings with their masks (as `masked` makes of them), a row each."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(model or segformer())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    (folder / "masks").mkdir()
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance, lines = random.Random(seed), []
        for index in range(count):
            image, mask = drawing(chance)
            image.save(folder / f"{part}{index}.png")
            masked(mask).save(folder / "masks" / f"{part}{index}.png")
            lines.append(json.dumps({"image": f"{part}{index}.png", "mask": f"masks/{part}{index}.png"}) + "\n")
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)
