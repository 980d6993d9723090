"""What tasks of models that write share, as functions: tokenizer, loading, what is possible, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.store import TokenRows
from tuner.model import starts
from tuner.model.adapt import attach, quantization, wrap
from tuner.model.generation import settings
from tuner.model.kernels import fuse_where
from tuner.model.load import DTYPES, load_base, load_empty, load_folder, load_tokenizer
from tuner.schema.adapter import Full, Lora
from tuner.schema.hardware import Fsdp
from tuner.train.padding import padding_free
from tuner.train.possible import possible_here


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The model's tokenizer with its chat template."""

    def make() -> PreTrainedTokenizerBase:
        tokenizer, origin = load_tokenizer(run.recipe.model, progress=run.tell, chats=run.recipe.task.chats)
        if origin.startswith("ChatML"):
            run.tell(f"chat template: {origin}")
        return tokenizer

    tokenizer: PreTrainedTokenizerBase = run.keep("tokenizer", make)
    return tokenizer


def _added(run: Run) -> list[int]:
    if not run.recipe.model.add_tokens:
        return []
    there = tokenizer_of(run).get_vocab()
    return [there[token] for token in run.recipe.model.add_tokens]


def possible(run: Run, *, packing: bool = False) -> None:
    """Adapter and padding-free training (which `packing` needs) fit the model, as far as its configuration tells: no weights are read."""
    possible_here(run.recipe, run.device)
    empty = wrap(load_empty(run.recipe.model, progress=run.tell), run.recipe.adapter, tokens=_added(run), start=False)
    padding_free(run, empty, packing=packing)


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; or with `trainable` the adapter on it (over a quantised base when asked); or the saved result over a fresh base."""
    model = run.recipe.model
    if tuned is not None and isinstance(run.recipe.adapter, Full):
        return load_folder(tuned, model, run.device)
    quantised = quantization(run.recipe.adapter, DTYPES[model.dtype], cut=isinstance(run.recipe.hardware, Fsdp)) if trainable else None
    # Full fine-tuning updates fp32 weights (autocast computes in the recipe's precision): a step is often below what bf16 can add.
    dtype = torch.float32 if trainable and isinstance(run.recipe.adapter, Full) else None
    place = (run.loads_on or run.device) if trainable else run.device
    base = load_base(model, place, progress=run.tell, quantization=quantised, dtype=dtype, placing=run.placing if trainable else None)
    if tuned is not None:
        return attach(base, tuned)
    if not trainable:
        return base
    adapted = wrap(base, run.recipe.adapter, tokens=_added(run))
    fuse_where(adapted, run.recipe.hardware.fused_kernels, run.device, run.tell)
    if isinstance(adapted, PeftModel) and isinstance(run.recipe.adapter, Lora):
        prepared = run.stage_folder("prepare")
        starts.start(
            adapted,
            run.recipe.adapter,
            plain=lambda: load_base(model, torch.device("cpu"), progress=run.tell),
            rows=lambda: TokenRows(prepared),
            beside=run.folder,
        )
    return adapted


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter, or all), tokenizer with its chat template, generation settings."""
    tokenizer = tokenizer_of(run)
    if isinstance(run.recipe.adapter, Full):
        model.to(DTYPES[run.recipe.model.dtype])
    starts.save(model, run.recipe.adapter, folder, beside=run.folder)
    tokenizer.save_pretrained(str(folder))
    settings(tokenizer).save_pretrained(str(folder))
