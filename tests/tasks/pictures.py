"""Projects for tests of images: `lab = pictures.colours(folder)` over a tiny ViT: squares that are red or blue, a folder a class."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

from tests.lab import Lab

RECIPE = """\
# small — a test
defaults: [{task: classify_image}]
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train, eval_path: FOLDER/eval}
trainer: {batch_size: 8, learning_rate: 5e-3, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""


@cache
def vit() -> Path:
    """A tiny ViT for images of 16 pixels, made once in a test session."""
    folder = Path(mkdtemp(prefix="vit-"))
    set_seed(0)
    config = ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,
        num_labels=5,  # of something else
        dtype="float32",
    )
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


def picture(chance: random.Random, colour: str) -> Image.Image:
    """A square of a colour somewhere on grey, of some size."""
    shades = {"red": (chance.randint(180, 255), 20, 20), "blue": (20, 20, chance.randint(180, 255))}
    image = Image.new("RGB", (chance.randint(20, 40), chance.randint(20, 40)), (128, 128, 128))
    side = chance.randint(8, 16)
    image.paste(shades[colour], (chance.randint(0, 4), chance.randint(0, 4), side, side))
    return image


def colours(folder: Path, *, rows: int = 40, held_out: int = 20) -> Lab:
    """A folder a class."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(vit())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance = random.Random(seed)
        for index in range(count):
            colour = ("red", "blue")[index % 2]
            (folder / part / colour).mkdir(parents=True, exist_ok=True)
            picture(chance, colour).save(folder / part / colour / f"{index}.png")
    return Lab(folder)
