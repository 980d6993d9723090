"""Tiny models that hear, and tones to hear: `lab = hearing.spoken(folder)` (a tone is a word), `lab = hearing.sounds(folder)` (a class)."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import soundfile
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
    set_seed,
)

from tests.lab import Lab

RATE, HERTZ = 8000, {"low": 300, "mid": 800, "high": 2000}  # half the rate that the models hear
RECIPE = """\
# small — a test
defaults: [{task: TASK}]
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""


@cache
def whisper(*, several: bool = False) -> Path:
    """A tiny random Whisper that hears a second at once; with `several` languages as OpenAI's first."""
    folder = Path(mkdtemp(prefix="whisper-"))
    specials = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|zh|>", "<|translate|>", "<|transcribe|>", "<|notimestamps|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    end = specials[0]
    tokenizer = WhisperTokenizer(tokenizer_object=raw, unk_token=end, bos_token=end, eos_token=end, pad_token=end)
    tokenizer.add_special_tokens({"additional_special_tokens": specials[1:]})
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=16, chunk_length=1).save_pretrained(folder)
    set_seed(0)
    sizes: dict[str, Any] = {"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    sizes |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "max_source_positions": 50, "max_target_positions": 32}
    ends: dict[str, Any] = {"decoder_start_token_id": 1, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    config = WhisperConfig(vocab_size=len(vocabulary), num_mel_bins=16, init_std=0.1, dtype="float32", **sizes, **ends)
    model = WhisperForConditionalGeneration(config)
    languages: dict[str, Any] = {"lang_to_id": {"<|en|>": 2, "<|zh|>": 3}, "task_to_id": {"translate": 4, "transcribe": 5}}
    model.generation_config = GenerationConfig(
        **ends, no_timestamps_token_id=6, is_multilingual=several, suppress_tokens=[1, 2, 3, 4, 5, 6], **(languages if several else {})
    )
    model.save_pretrained(folder)
    return folder


@cache
def wav2vec2() -> Path:
    """A tiny random wav2vec2."""
    folder = Path(mkdtemp(prefix="wav2vec2-"))
    Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True).save_pretrained(folder)
    set_seed(0)
    config = Wav2Vec2Config(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        conv_dim=[16, 16, 16],
        conv_stride=[5, 4, 4],
        conv_kernel=[10, 8, 8],
        feat_extract_norm="layer",
        do_stable_layer_norm=True,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=16,
        apply_spec_augment=False,
        layerdrop=0.0,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        feat_proj_dropout=0.0,
        dtype="float32",
    )
    Wav2Vec2Model(config).save_pretrained(folder)
    return folder


def tone(path: Path, name: str, chance: random.Random) -> str:
    """Write a tone of about 0.3 s, with some noise."""
    times = np.arange(int(RATE * chance.uniform(0.2, 0.4))) / RATE
    noise = np.random.default_rng(chance.getrandbits(32)).standard_normal(len(times)) * 0.01
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * HERTZ[name] * chance.uniform(0.95, 1.05) * times) + noise, RATE)
    return path.name


def make(folder: Path, task: str, model: Path, column: str, *, rows: int = 48, held_out: int = 12) -> Lab:
    """A project with recordings beside a manifest."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("TASK", task).replace("MODEL", str(model)).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance, lines = random.Random(seed), []
        for index in range(count):
            name = list(HERTZ)[index % 3]
            lines.append(json.dumps({"audio": tone(folder / f"{part}{index}.wav", name, chance), column: name}) + "\n")
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)


def spoken(folder: Path, *, several: bool = False, **options: Any) -> Lab:
    """Tones that are words."""
    return make(folder, "transcribe", whisper(several=several), "text", **options)


def sounds(folder: Path, model: Path | None = None, **options: Any) -> Lab:
    """Tones that are classes."""
    return make(folder, "classify_audio", model or wav2vec2(), "label", **options)
