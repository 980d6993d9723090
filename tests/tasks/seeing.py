"""Projects for tests of models that see and write: `lab = seeing.colours(folder)` over a tiny LLaVA, or Idefics3, Gemma 3, Qwen2.5-VL."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from PIL import Image
from tokenizers import AddedToken
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessorPil,
    set_seed,
)

from tests.lab import Lab, tiny_model

RECIPE = """\
# small — a test
defaults: [{task: vlm}]
model: {id: MODEL, dtype: float32}
task: {max_length: 128}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
eval: {metrics: [exact_match], max_new_tokens: 8}
hardware: {device: cpu}
"""
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ '<image>' }}{% else %}{{ p['text'] }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SHADES = {"red": (220, 20, 20), "blue": (20, 20, 220), "green": (20, 200, 20)}
LANGUAGE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
}


def tokenizer_with(*marks: str) -> PreTrainedTokenizerBase:
    """The tiny tokenizer, a byte a token, with some marks; read anew, since others leave the shared one set to cut texts."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tiny_model()))
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in marks], special_tokens=True)
    return tokenizer


@cache
def llava() -> Path:
    """A tiny LLaVA whose images are four tokens, made once in a test session."""
    return larger_llava(side=16, patch=8, language={}, vision={})


def larger_llava(*, side: int, patch: int, language: dict[str, Any], vision: dict[str, Any]) -> Path:
    """A LLaVA for images of `side` pixels, `patch` pixels a token, with other sizes than the tiny one."""
    folder = Path(mkdtemp(prefix="llava-"))
    tokenizer = tokenizer_with("<image>")
    images = LlavaImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})
    processor = LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    processor.save_pretrained(folder)
    set_seed(0)
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**VISION | vision | {"image_size": side, "patch_size": patch}, initializer_range=0.2),
        text_config=LlamaConfig(**LANGUAGE | language, vocab_size=len(tokenizer)),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
        dtype="float32",
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


@cache
def idefics() -> Path:
    """A tiny Idefics3, which wraps an image's tokens in marks and pads the images of a batch."""
    folder = Path(mkdtemp(prefix="idefics-"))
    tokenizer = tokenizer_with("<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>")
    images = Idefics3ImageProcessorPil(size={"longest_edge": 16}, max_image_size={"longest_edge": 16}, do_image_splitting=False)
    Idefics3Processor(images, tokenizer, image_seq_len=1, chat_template=TEMPLATE).save_pretrained(folder)
    set_seed(0)
    config = Idefics3Config(
        vision_config=VISION,
        text_config={"model_type": "llama", **LANGUAGE, "vocab_size": len(tokenizer)},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=1,
        tie_word_embeddings=True,
        dtype="float32",
    )
    Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@cache
def gemma() -> Path:
    """A tiny Gemma 3, in whose texts another mark stands for an image than the tokens that it takes."""
    folder = Path(mkdtemp(prefix="gemma-"))
    names = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    tokenizer_with(*names.values()).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens=names)
    images = Gemma3ImageProcessorPil(size={"height": 16, "width": 16})
    template = TEMPLATE.replace("<image>", "<start_of_image>")
    Gemma3Processor(images, tokenizer, chat_template=template, image_seq_length=4).save_pretrained(folder)
    ids = {name: tokenizer.convert_tokens_to_ids(mark) for name, mark in names.items()}
    set_seed(0)
    config = Gemma3Config(
        text_config={k: v for k, v in LANGUAGE.items() if "tie" not in k}
        | {"vocab_size": len(tokenizer), "head_dim": 8, "sliding_window": 64},
        vision_config=VISION | {"vision_use_head": False},
        mm_tokens_per_image=4,
        boi_token_index=ids["boi_token"],
        eoi_token_index=ids["eoi_token"],
        image_token_index=ids["image_token"],
        dtype="float32",
    )
    Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    return folder


def qwen(monkeypatch: Any) -> tuple[Any, Any]:
    """A tiny Qwen2.5-VL, whose images take as many tokens as they are large, and its processor: without the part for videos, which needs
    torchvision, and so without the check that it is there."""
    monkeypatch.setattr(Qwen2_5_VLProcessor, "check_argument_for_proper_class", lambda *_: None)
    marks = ("<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>")
    tokenizer = tokenizer_with(*marks)
    tokenizer.chat_template = TEMPLATE.replace("<image>", "<|vision_start|><|image_pad|><|vision_end|>")
    images = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, size={"shortest_edge": 256, "longest_edge": 4096})
    processor = Qwen2_5_VLProcessor(images, tokenizer, None, chat_template=tokenizer.chat_template)
    ids = dict(zip(("image", "vision_start", "vision_end", "video"), tokenizer.convert_tokens_to_ids(list(marks)), strict=True))
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    sees = {"depth": 2, "num_heads": 4, "out_hidden_size": 32, "spatial_merge_size": 2, "fullatt_block_indexes": [1], "window_size": 32}
    set_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={k: v for k, v in LANGUAGE.items() if "tie" not in k} | {"vocab_size": len(tokenizer), "rope_parameters": rope},
        vision_config={"hidden_size": 32, "intermediate_size": 64, "patch_size": 8, "temporal_patch_size": 2, **sees},
        tie_word_embeddings=True,
        **{f"{name}_token_id": number for name, number in ids.items()},
    )
    return processor, Qwen2_5_VLForConditionalGeneration(config).eval()


def picture(chance: random.Random, colour: str) -> Image.Image:
    """A square of a colour somewhere on grey, of some size."""
    image = Image.new("RGB", (chance.randint(20, 40), chance.randint(20, 40)), (128, 128, 128))
    side = chance.randint(14, 18)
    image.paste(SHADES[colour], (chance.randint(0, 4), chance.randint(0, 4), side, side))
    return image


def colours(folder: Path, *, rows: int = 48, held_out: int = 12, model: Path | None = None) -> Lab:
    """Squares and the question of which colour they are."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(model or llava())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance = random.Random(seed)
        (folder / part).mkdir()
        lines = []
        for index in range(count):
            colour = list(SHADES)[index % 3]
            picture(chance, colour).save(folder / part / f"{index}.png")
            lines.append(json.dumps({"image": f"{part}/{index}.png", "question": "colour?", "answer": colour}) + "\n")
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)
