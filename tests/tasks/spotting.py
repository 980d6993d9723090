"""Projects for tests of objects in images: `lab = spotting.shapes(folder)`: rectangles of two colours on grey, with tiny detectors."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from PIL import Image, ImageDraw
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ConditionalDetrImageProcessorPil,
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    DeformableDetrImageProcessorPil,
    DetrConfig,
    DetrForObjectDetection,
    DetrImageProcessorPil,
    ResNetConfig,
    RTDetrConfig,
    RTDetrForObjectDetection,
    RTDetrImageProcessorPil,
    RTDetrResNetConfig,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
    set_seed,
)

from tests.lab import Lab

RECIPE = """\
# small — a test
defaults: [{task: detect}]
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 4, learning_rate: 2e-3, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""
COLOURS = {"red": (220, 20, 20), "blue": (20, 20, 220)}
SIZE = {"shortest_edge": 32, "longest_edge": 48}
QUIET: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0}


def _saved(name: str, model: Any, processor: Any) -> Path:
    folder = Path(mkdtemp(prefix=f"{name}-"))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@cache
def yolos() -> Path:
    """A tiny YOLOS with six queries, made once in a test session."""
    set_seed(0)
    config = YolosConfig(
        image_size=[32, 32],
        patch_size=8,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_detection_tokens=6,
        use_mid_position_embeddings=False,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=5,  # of something else
        dtype="float32",
    )
    return _saved("yolos", YolosForObjectDetection(config), YolosImageProcessorPil(size={"height": 32, "width": 32}))


def _detr(config: Any) -> Any:
    set_seed(0)
    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage2"], num_labels=2
    )
    layers: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 16, "num_queries": 6, "num_labels": 5}
    return config(use_timm_backbone=False, backbone_config=backbone, auxiliary_loss=True, dtype="float32", **layers, **heads, **QUIET)


@cache
def detr() -> Path:
    """A tiny DETR over a ResNet of two stages, with the losses of its first layer too."""
    return _saved("detr", DetrForObjectDetection(_detr(DetrConfig)), DetrImageProcessorPil(size=SIZE))


@cache
def conditional() -> Path:
    """A tiny Conditional DETR."""
    model = ConditionalDetrForObjectDetection(_detr(ConditionalDetrConfig))
    return _saved("conditional", model, ConditionalDetrImageProcessorPil(size=SIZE))


@cache
def rt_detr(*, denoising: int = 0) -> Path:
    """A tiny RT-DETR."""
    set_seed(0)
    backbone = RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic", out_indices=[2, 3, 4]
    )
    config = RTDetrConfig(
        backbone_config=backbone,
        encoder_hidden_dim=16,
        encoder_in_channels=[8, 16, 16],
        encoder_ffn_dim=32,
        encoder_attention_heads=2,
        d_model=16,
        num_queries=6,
        decoder_in_channels=[16, 16, 16],
        decoder_ffn_dim=32,
        decoder_layers=2,
        decoder_attention_heads=2,
        num_denoising=denoising,
        num_labels=5,
        dtype="float32",
    )
    return _saved("rt-detr", RTDetrForObjectDetection(config), RTDetrImageProcessorPil(size={"height": 64, "width": 64}))


@cache
def deformable() -> Path:
    """A tiny Deformable DETR whose layers refine boxes with one and the same modules as it tells them with."""
    set_seed(0)
    backbone = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_features=["stage1", "stage2"])
    layers: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads: dict[str, Any] = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "d_model": 32, "num_queries": 6}
    more: dict[str, Any] = {"with_box_refine": True, "num_feature_levels": 2, "num_labels": 5, "dtype": "float32"}
    config = DeformableDetrConfig(use_timm_backbone=False, backbone_config=backbone, **layers, **heads, **more)
    return _saved("deformable", DeformableDetrForObjectDetection(config), DeformableDetrImageProcessorPil(size=SIZE))


MODELS = {"yolos": yolos, "detr": detr, "conditional": conditional, "rt_detr": rt_detr}


def picture(chance: random.Random, most: int = 2, side: tuple[int, int] = (10, 18)) -> tuple[Image.Image, dict[str, Any]]:
    """A grey image with up to so many rectangles of sides between two lengths, and what they are."""
    image = Image.new("RGB", (chance.randint(40, 60), chance.randint(40, 60)), (128, 128, 128))
    pen, boxes, names = ImageDraw.Draw(image), list[list[float]](), list[str]()
    for _ in range(chance.randint(0 if most > 1 else 1, most)):
        wide, high = chance.randint(*side), chance.randint(*side)
        x, y = chance.randint(0, image.width - wide), chance.randint(0, image.height - high)
        name = chance.choice(list(COLOURS))
        pen.rectangle((x, y, x + wide - 1, y + high - 1), fill=COLOURS[name])
        boxes.append([x, y, wide, high])
        names.append(name)
    return image, {"bbox": boxes, "category": names}


def shapes(folder: Path, *, rows: int = 24, held_out: int = 6, model: Path | None = None, **how: Any) -> Lab:
    """Image files, and tables that say what is on them."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(model or yolos())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance, lines = random.Random(seed), list[str]()
        (folder / part).mkdir()
        for index in range(count):
            image, objects = picture(chance, **how)
            image.save(folder / part / f"{index}.png")
            lines.append(json.dumps({"image": f"{part}/{index}.png", "objects": objects}) + "\n")
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)
