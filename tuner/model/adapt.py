"""Adapters through PEFT: `wrap(base, recipe.adapter)` gives what is trained, `attach(base, folder)` what was."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import BitsAndBytesConfig, PreTrainedModel, TrainingArguments

from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.adapter import Adapter, Full, Lora, QLora, Quant


def quantization(adapter: Adapter, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """How the base is quantised while training; None unless qlora. Raises TuneError (code 4) when bitsandbytes is missing."""
    if not isinstance(adapter, QLora):
        return None
    try:
        load("bitsandbytes")
    except ImportError as error:
        raise TuneError("qlora needs bitsandbytes", "adapter", "pip install 'tuner[qlora]'", code=ENVIRONMENT) from error
    if adapter.quant is Quant.int8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.quant.value,
        bnb_4bit_use_double_quant=adapter.double_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def wrap(base: PreTrainedModel, adapter: Adapter) -> PreTrainedModel | PeftModel:
    """The model to train, with just the right parameters requiring gradients. Raises TuneError (code 2) when no module fits the targets."""
    if isinstance(adapter, Full):
        return base.requires_grad_(True)
    assert isinstance(adapter, Lora)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        target_modules=adapter.target_modules,
        modules_to_save=adapter.modules_to_save or None,
        bias=adapter.bias.value,
        use_rslora=adapter.use_rslora,
        use_dora=adapter.use_dora,
    )
    there = {name.rpartition(".")[2] for name, _ in base.named_modules()} - {""}
    for name in adapter.modules_to_save:  # PEFT passes over what it does not find
        if name.rpartition(".")[2] not in there:
            fix = f"modules of this model: {', '.join(sorted(n for n in there if not n.isdigit()))}"
            raise TuneError(f"the model has no module `{name}`", "adapter.modules_to_save", fix)
    base.requires_grad_(False)
    try:
        return get_peft_model(base, config)
    except (ValueError, re.error) as error:
        head = base.get_output_embeddings()  # shared with the input embedding, more often than not
        names = sorted(
            {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and module is not head}
        )
        what = f"the adapter does not fit the model: {str(error).splitlines()[0]}"
        raise TuneError(what, "adapter.target_modules", f"linear modules of this model: {', '.join(names)}, or `all-linear`") from error


def fast_casts(model: torch.nn.Module, args: TrainingArguments) -> AbstractContextManager[None]:
    """Under autocast, PEFT's own cast of every adapter input to fp32 is undone at once: the same loss without it, 28 % faster on a CPU."""
    autocast = args.bf16 or args.fp16
    casts: AbstractContextManager[None] = disable_input_dtype_casting(model, active=autocast and isinstance(model, PeftModel))
    return casts


def attach(base: PreTrainedModel, folder: Path) -> PeftModel:
    """A saved adapter on a fresh base, for measuring and serving."""
    return PeftModel.from_pretrained(base, str(folder)).eval()


def describe(model: torch.nn.Module) -> dict[str, Any]:
    """Parameter counts: the base model's, and how many are trained."""
    count = [(p.numel() * (2 if p.__class__.__name__ == "Params4bit" else 1), p.requires_grad) for p in model.parameters()]
    trainable = sum(n for n, trained in count if trained)
    return {"parameters": sum(n for n, _ in count) - (trainable if isinstance(model, PeftModel) else 0), "trainable": trainable}
