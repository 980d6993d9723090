"""Tiny pipelines that paint, and shapes to paint: `lab = painting.shapes(folder)` (a red circle, a blue square …) over `painting.sd()`."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import diffusers
from PIL import Image, ImageDraw
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    set_seed,
)

from tests.lab import Lab

COLOURS, FORMS = {"red": (230, 30, 30), "blue": (30, 30, 230)}, ("circle", "square")
SIZE = 32  # pixels of an image; its latents are half as wide
RECIPE = """\
# small — a test
defaults: [{task: diffusion}]
model: {id: MODEL, dtype: float32}
task: {samples: 2, sample_steps: 4}
data: {path: FOLDER/train, eval_path: FOLDER/eval}
trainer: {batch_size: 8, learning_rate: 5e-3, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""


def tokenizer() -> CLIPTokenizer:
    """A token a letter, and one for each word that shapes are named with."""
    words = ["a", *COLOURS, *FORMS]
    pieces = ["<|startoftext|>", "<|endoftext|>", *(chr(c) for c in range(97, 123)), *(f"{chr(c)}</w>" for c in range(97, 123))]
    merges, vocabulary = list[tuple[str, str]](), dict.fromkeys(pieces)
    for word in words:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            vocabulary[parts[0]] = None
    ids = {piece: index for index, piece in enumerate(vocabulary)}
    return CLIPTokenizer(vocab=ids, merges=list(dict.fromkeys(merges)), model_max_length=16)


def text_config(known: CLIPTokenizer, **more: Any) -> CLIPTextConfig:
    """A CLIP of two layers."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 16}
    ends: dict[str, Any] = {"bos_token_id": known.bos_token_id, "eos_token_id": known.eos_token_id, "pad_token_id": known.pad_token_id}
    return CLIPTextConfig(vocab_size=len(known), initializer_factor=4.0, projection_dim=32, dtype="float32", **sizes, **ends, **more)


def vae(**more: Any) -> diffusers.AutoencoderKL:
    """An autoencoder that halves width and height."""
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D", "DownEncoderBlock2D"),
        "up_block_types": ("UpDecoderBlock2D", "UpDecoderBlock2D"),
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "latent_channels": 4,
        "sample_size": SIZE,
    }
    return diffusers.AutoencoderKL(**(blocks | more))


def unet(**more: Any) -> diffusers.UNet2DConditionModel:
    """A UNet of two levels, the lower one with attention to the prompt."""
    blocks: dict[str, Any] = {
        "sample_size": SIZE // 2,
        "block_out_channels": (16, 32),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": 32,
        "attention_head_dim": 8,
        "norm_num_groups": 4,
    }
    return diffusers.UNet2DConditionModel(**(blocks | more))


@cache
def sd(prediction: str = "epsilon") -> Path:
    """A tiny random Stable Diffusion, made once in a test session."""
    folder = Path(mkdtemp(prefix="sd-"))
    set_seed(0)
    known = tokenizer()
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(known)),
        tokenizer=known,
        unet=unet(),
        scheduler=diffusers.DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


@cache
def sdxl() -> Path:
    """A tiny random SDXL: two text encoders, and the image's size as a condition."""
    folder = Path(mkdtemp(prefix="sdxl-"))
    set_seed(0)
    known = tokenizer()
    more: dict[str, Any] = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "transformer_layers_per_block": (1, 2)}
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config(known)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(known)),
        tokenizer=known,
        tokenizer_2=tokenizer(),
        unet=unet(cross_attention_dim=64, projection_class_embeddings_input_dim=32 + 6 * 8, use_linear_projection=True, **more),
        scheduler=diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1),
    )
    pipeline.save_pretrained(folder)
    return folder


@cache
def sd3() -> Path:
    """A tiny random Stable Diffusion 3 without its third text encoder: a transformer that learns a flow."""
    folder = Path(mkdtemp(prefix="sd3-"))
    set_seed(0)
    known = tokenizer()
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=SIZE // 2,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
    )
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(text_config(known)),
        tokenizer=known,
        text_encoder_2=CLIPTextModelWithProjection(text_config(known)),
        tokenizer_2=tokenizer(),
        text_encoder_3=None,
        tokenizer_3=None,
    )
    pipeline.save_pretrained(folder)
    return folder


def t5() -> tuple[T5EncoderModel, T5Tokenizer]:
    """A T5 that knows the words that shapes are named with."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((f"▁{word}", -1.0) for word in ("a", *COLOURS, *FORMS))]
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return T5EncoderModel(T5Config(vocab_size=len(pieces), dtype="float32", **sizes)), T5Tokenizer(vocab=pieces, extra_ids=0)


@cache
def flux() -> Path:
    """A tiny random Flux that was taught its guidance, whose autoencoder halves width and height."""
    folder = Path(mkdtemp(prefix="flux-"))
    set_seed(0)
    known, (encoder, pieces) = tokenizer(), t5()
    transformer = diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipeline = diffusers.FluxPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=vae(shift_factor=0.06, scaling_factor=1.5, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModel(text_config(known)),
        tokenizer=known,
        text_encoder_2=encoder,
        tokenizer_2=pieces,
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return folder


def shape(chance: random.Random, colour: str, form: str) -> Image.Image:
    """A shape of a colour, somewhere on grey; not quite square itself."""
    image = Image.new("RGB", (chance.randint(SIZE, SIZE + 16), chance.randint(SIZE, SIZE + 8)), (200, 200, 200))
    draw, side, left, top = ImageDraw.Draw(image), chance.randint(14, 20), chance.randint(2, 10), chance.randint(2, 10)
    (draw.ellipse if form == "circle" else draw.rectangle)((left, top, left + side, top + side), fill=COLOURS[colour])
    return image


def shapes(folder: Path, model: Path | None = None, *, rows: int = 24, held_out: int = 4) -> Lab:
    """A folder of images with metadata."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(model or sd())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance, lines = random.Random(seed), list[str]()
        (folder / part).mkdir()
        for index in range(count):
            colour, form = list(COLOURS)[index % 2], FORMS[index // 2 % 2]
            shape(chance, colour, form).save(folder / part / f"{index}.png")
            lines.append(json.dumps({"file_name": f"{index}.png", "text": f"a {colour} {form}"}) + "\n")
        (folder / part / "metadata.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)


def uncaptioned(folder: Path, model: Path | None = None) -> Lab:
    """The same images without their captions."""
    lab = shapes(folder, model)
    for part in ("train", "eval"):
        (folder / part / "metadata.jsonl").unlink()
    return lab
