"""Real images, for minutes: a small ViT tells shapes, and a small LLaVA answers questions, both from random weights. All are `slow`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, set_seed

from tests.tasks import easy_vqa, seeing
from tests.tasks.real import ran, write

pytestmark = pytest.mark.slow
HEAD = """\
# real — a test
defaults: [{{task: {task}}}, {{model: custom}}, {{adapter: full}}, {{hub: none}}]
model: {{id: {model}, dtype: float32}}
"""
SETS = "data: {path: train.jsonl, eval_path: dev.jsonl}\n"
TRAINER = (
    "trainer: {{batch_size: 32, learning_rate: {rate}, num_train_epochs: {epochs}, warmup_ratio: 0.1, precision: fp32, save_steps: 0}}\n"
)


def test_shapes(tmp_path: Path) -> None:
    """3,107 images to train, 763 held out, three shapes in eight colours."""
    set_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4}
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    config = ViTConfig(image_size=64, patch_size=8, **sizes, **off, dtype="float32")
    ViTForImageClassification(config).save_pretrained(tmp_path / "vit")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "vit")
    for part, name in (("train", "train"), ("test", "dev")):
        write(tmp_path, name, [{"image": str(image), "label": shape} for image, shape in easy_vqa.shapes(part).items()])
    recipe = HEAD.format(task="classify_image", model=tmp_path / "vit") + SETS + TRAINER.format(rate="1e-3", epochs=6)
    found = ran(tmp_path, recipe)
    assert found["tuned"]["accuracy"] > 0.93 > found["base"]["accuracy"] + 0.4


def test_questions(tmp_path: Path) -> None:
    """2,000 questions about shapes and colours; 200 held out, about other images."""
    big = {"hidden_size": 96, "intermediate_size": 192}
    folder = seeing.larger_llava(side=64, patch=16, language=big | {"initializer_range": 0.05}, vision=big | {"num_hidden_layers": 2})
    for part, name, count in (("train", "train", 2000), ("test", "dev", 200)):
        asked = list(easy_vqa.rows(part))
        random.Random(0).shuffle(asked)
        write(tmp_path, name, [{"image": str(image), "question": question, "answer": answer} for image, question, answer in asked[:count]])
    recipe = HEAD.format(task="vlm", model=folder) + "task: {max_length: 128, train_vision: true}\n" + SETS
    recipe += "eval: {metrics: [exact_match], max_new_tokens: 12}\n" + TRAINER.format(rate="2e-3", epochs=8)
    found = ran(tmp_path, recipe)
    assert found["tuned"]["exact_match"] > 0.6 > found["base"]["exact_match"] + 0.5
    assert found["tuned"]["loss"] < 0.5 * found["base"]["loss"]
