"""A recipe's trainer section as Transformers' TrainingArguments: `arguments(recipe, folder, device, rows=448)`."""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from tuner.errors import ENVIRONMENT, TuneError
from tuner.schema.hardware import Hardware
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import PROJECTED, Optim, Precision, Trainer
from tuner.train.strategies.base import strategy_of

MICRO_BATCH = 8


def micro_batch(trainer: Trainer, hardware: Hardware, device: torch.device, groups: int = 1) -> int:
    """Rows in one forward pass; `groups` of devices each take their own. Raises TuneError (code 2) when the batch cannot be cut so."""
    rows, share = hardware.micro_batch_size, trainer.batch_size // groups
    if trainer.batch_size % (groups * (rows or 1)):
        parts = f"hardware.micro_batch_size={rows}" if groups == 1 else f"{groups} devices × {rows or 1} rows"
        what = f"trainer.batch_size={trainer.batch_size} is no multiple of {parts}"
        where = "hardware.micro_batch_size" if rows else "trainer.batch_size"
        raise TuneError(what, where, "choose a divisor: the global batch is what a recipe promises")
    if rows is None:
        return max(n for n in range(1, min(MICRO_BATCH, share) + 1) if share % n == 0)  # the memory plan did not know
    return rows


def total_steps(trainer: Trainer, rows: int) -> int:
    """Optimizer steps of the whole training."""
    return trainer.max_steps or max(1, math.ceil(math.ceil(rows / trainer.batch_size) * trainer.num_train_epochs))


def possible_on(trainer: Trainer, device: torch.device) -> None:
    """Raises TuneError for what this device cannot do."""
    if trainer.precision is Precision.fp16 and device.type == "cpu":
        what = "fp16 training needs a GPU, and this run is on the CPU"
        raise TuneError(what, "trainer.precision", "use `trainer.precision=bf16`", code=ENVIRONMENT)
    if trainer.precision is Precision.tf32 and not (device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)):
        what = "tf32 is a format of NVIDIA GPUs since Ampere, and this run is on none"
        raise TuneError(what, "trainer.precision", "use `trainer.precision=fp32`", code=ENVIRONMENT)
    if trainer.precision is Precision.fp8:
        if not (device.type == "cuda" and torch.cuda.get_device_capability() >= (8, 9)):
            what = "fp8 is a format of NVIDIA GPUs since Ada, and this run is on none"
            raise TuneError(what, "trainer.precision", "use `trainer.precision=bf16`", code=ENVIRONMENT)
        if find_spec("torchao") is None:
            raise TuneError("fp8 needs torchao", "trainer.precision", "pip install 'tuner[fp8]'", code=ENVIRONMENT)
    if trainer.activation_offloading and device.type == "cpu":
        what = "activations are offloaded to the host's memory, and this run is in it"
        raise TuneError(what, "trainer.activation_offloading", "leave it out", code=ENVIRONMENT)


def _extra(recipe: Recipe) -> dict[str, Any]:
    """Arguments that only some recipes have."""
    trainer = recipe.trainer
    extra: dict[str, Any] = {}
    if trainer.activation_checkpointing:
        kept = {"every_n_layers": trainer.checkpoint_every_n_layers, "offload": trainer.activation_offloading}
        extra |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": kept}
    if trainer.optim in PROJECTED:
        extra["optim_target_modules"] = "all-linear"
    if trainer.eval_steps:
        extra |= {
            "eval_strategy": "steps",
            "eval_steps": trainer.eval_steps,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
        }
    return extra | strategy_of(recipe.hardware).arguments(recipe)


def arguments(recipe: Recipe, folder: Path, device: torch.device, *, rows: int, processes: int = 1) -> TrainingArguments:
    """TrainingArguments that write checkpoints under `folder`; saving, rotation and progress are our callbacks'."""
    trainer, extra = recipe.trainer, _extra(recipe)
    possible_on(trainer, device)
    groups = processes // recipe.hardware.devices_per_row
    micro = micro_batch(trainer, recipe.hardware, device, groups)
    steps = total_steps(trainer, rows)
    found = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=micro,
        per_device_eval_batch_size=micro,
        gradient_accumulation_steps=trainer.batch_size // (micro * groups),
        max_steps=steps,
        learning_rate=trainer.learning_rate,
        optim=Optim.adamw_torch.value if trainer.optim is Optim.muon else trainer.optim.value,  # Muon: TokenTrainer makes it
        optim_args=",".join(f"{name}={value}" for name, value in trainer.optim_args.items()) or None,
        weight_decay=trainer.weight_decay,
        adam_beta1=trainer.adam_beta1,
        adam_beta2=trainer.adam_beta2,
        adam_epsilon=trainer.adam_epsilon,
        max_grad_norm=trainer.max_grad_norm,
        lr_scheduler_type=trainer.lr_scheduler_type.value,
        warmup_steps=int(steps * trainer.warmup_ratio),
        bf16=trainer.precision is Precision.bf16,
        fp16=trainer.precision is Precision.fp16,
        neftune_noise_alpha=trainer.neftune_noise_alpha,
        label_smoothing_factor=trainer.label_smoothing_factor,
        tf32=trainer.precision is Precision.tf32 if device.type == "cuda" else None,
        logging_steps=trainer.logging_steps,
        logging_nan_inf_filter=False,
        # Transformers notes the best step only where it saves by steps.
        save_strategy="steps" if trainer.save_steps or trainer.load_best_model_at_end else "no",
        save_steps=trainer.save_steps or steps,
        load_best_model_at_end=False,
        seed=recipe.seed,
        use_cpu=device.type == "cpu",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        ignore_data_skip=recipe.data.streaming,  # the stream itself goes on where it was
        dataloader_num_workers=recipe.hardware.num_workers,
        dataloader_pin_memory=device.type == "cuda",
        prediction_loss_only=True,
        **extra,
    )
    if trainer.precision is Precision.fp8:
        found.mixed_precision = "fp8"  # which only the environment could say
    strategy_of(recipe.hardware).adjust(found, recipe)
    return found
