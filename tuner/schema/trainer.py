"""The `trainer:` section: how long, how fast, how often to look. `trainer: {learning_rate: 1e-4, batch_size: 32}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tuner.schema.base import Section, opt


class Scheduler(StrEnum):
    """Learning-rate curves."""

    linear = "linear"
    cosine = "cosine"
    constant = "constant"
    constant_with_warmup = "constant_with_warmup"
    polynomial = "polynomial"
    inverse_sqrt = "inverse_sqrt"


class Optim(StrEnum):
    """Optimizers, by Transformers' names."""

    adamw_torch = "adamw_torch"
    adamw_torch_fused = "adamw_torch_fused"
    adamw_bnb_8bit = "adamw_bnb_8bit"
    paged_adamw_32bit = "paged_adamw_32bit"
    paged_adamw_8bit = "paged_adamw_8bit"
    adafactor = "adafactor"
    lion_32bit = "lion_32bit"
    lion_8bit = "lion_8bit"
    paged_lion_8bit = "paged_lion_8bit"
    muon = "muon"
    sgd = "sgd"
    schedule_free_adamw = "schedule_free_adamw"
    schedule_free_sgd = "schedule_free_sgd"
    galore_adamw = "galore_adamw"
    galore_adafactor = "galore_adafactor"
    apollo_adamw = "apollo_adamw"


BITSANDBYTES = frozenset(o for o in Optim if "bit" in o)  # optimizers of this package
SCHEDULE_FREE = frozenset(o for o in Optim if "schedule_free" in o)
PROJECTED = frozenset(o for o in Optim if o.startswith(("galore", "apollo")))  # moments of matrices in few dimensions
_PROJECTION: dict[str, Any] = {"rank": int, "update_proj_gap": int, "scale": float}
_GALORE = _PROJECTION | {"proj_type": ("std", "reverse_std", "right", "left", "full")}
_APOLLO = _PROJECTION | {"proj": ("random", "svd"), "scale_type": ("channel", "tensor")}
_SCHEDULE_FREE: dict[str, Any] = {"r": float, "weight_lr_power": float}
# What of each optimizer can be set beside `weight_decay` and the betas, by its own names: a kind of number, a truth, or one of some words.
OPTIM_ARGS: dict[Optim, dict[str, Any]] = {
    Optim.sgd: {"momentum": float, "dampening": float, "nesterov": bool},
    Optim.schedule_free_adamw: _SCHEDULE_FREE,
    Optim.schedule_free_sgd: _SCHEDULE_FREE,
    Optim.galore_adamw: _GALORE,
    Optim.galore_adafactor: _GALORE,
    Optim.apollo_adamw: _APOLLO,
}


class Precision(StrEnum):
    """Autocast precisions."""

    auto = "auto"
    """`bf16` where the device multiplies it itself; else `fp32` on a CPU, `fp16` on an older GPU."""
    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"
    tf32 = "tf32"
    """fp32 whose matrix products round their inputs to 10 bits of mantissa: NVIDIA GPUs since Ampere."""
    fp8 = "fp8"
    """bf16 whose blocks' matrix products are in 8 bits (torchao): NVIDIA GPUs since Ada, with `adapter=full`."""


class Choice(StrEnum):
    """Left to us, asked for, or ruled out."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(kw_only=True)
class Trainer(Section):
    """The training loop's settings, under Transformers' names where it has them."""

    learning_rate: float = opt(2e-4, affects="train", gt=0, lt=10)
    """Peak learning rate. Default: what suits task and adapter (docs/training.md), as 2e-4 for LoRA on conversations."""
    num_train_epochs: float = opt(1.0, affects="train", gt=0, le=100_000)
    """Passes over the training rows, when `max_steps` is not set."""
    max_steps: int | None = opt(None, affects="train", ge=1)
    """Optimizer steps, instead of epochs."""
    batch_size: int = opt(16, affects="train", ge=1)
    """**Global** batch: rows an optimizer step sees over all devices (packed rows when packing)."""
    optim: Optim = opt(Optim.adamw_torch, affects="train")
    """Optimizer, by Transformers' name; `muon` is PyTorch's, for matrices, with AdamW for the rest."""
    optim_args: dict[str, Any] = opt(factory=dict, affects="train")
    """Further settings of the optimizer, by its own names: `{rank: 64, update_proj_gap: 100}` for `galore_adamw`."""
    weight_decay: float = opt(0.0, affects="train", ge=0)
    """Decoupled weight decay."""
    adam_beta1: float = opt(0.9, affects="train", ge=0, lt=1)
    """AdamW's first-moment decay."""
    adam_beta2: float = opt(0.999, affects="train", ge=0, lt=1)
    """AdamW's second-moment decay."""
    adam_epsilon: float = opt(1e-8, affects="train", gt=0)
    """What AdamW adds to the root of the second moment."""
    max_grad_norm: float = opt(1.0, affects="train", ge=0)
    """Gradients are clipped to this norm; 0: not clipped."""
    lr_scheduler_type: Scheduler = opt(Scheduler.cosine, affects="train")
    """Learning-rate curve after the warm-up."""
    warmup_ratio: float = opt(0.03, affects="train", ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    precision: Precision = opt(Precision.auto, affects="baseline train")
    """Autocast precision of the forward pass; `auto` is what the device is fast in. With `model.dtype=auto` the weights follow it."""
    padding_free: Choice = opt(Choice.auto, affects="train")
    """Train on rows laid end to end without padding, scoring only trained tokens; `auto`: where the model supports it."""
    torch_compile: bool = opt(False, affects="train")
    """Compile the model's blocks, for the one shape that packed rows have (`task.packing`): a minute or more at the start, faster steps."""
    activation_checkpointing: bool = opt(False, affects="train")
    """Recompute activations in the backward pass: less memory, about 1.3 times the time (measured on a CPU)."""
    checkpoint_every_n_layers: int = opt(1, affects="train", ge=1)
    """With `activation_checkpointing`: recompute only every n-th layer, and keep the others' activations."""
    activation_offloading: bool = opt(False, affects="train")
    """With `activation_checkpointing`: hold what is kept between the layers in the host's memory. For a GPU."""
    label_smoothing_factor: float = opt(0.0, affects="train", ge=0, lt=1)
    """Share of each label that is spread over the whole vocabulary while training (https://arxiv.org/abs/1512.00567)."""
    ema_decay: float | None = opt(None, affects="train", gt=0, lt=1)
    """Keep, and measure, a moving average of the trained weights instead of the last ones: 0.99 averages over about 100 steps."""
    neftune_noise_alpha: float | None = opt(None, affects="train", gt=0)
    """NEFTune (https://arxiv.org/abs/2310.05914): noise on the embeddings while training; 5 is usual for chat."""
    logging_steps: int = opt(1, ge=1)
    """Log every so many steps."""
    save_steps: int = opt(50, ge=0)
    """Write a checkpoint every so many steps; 0: only when interrupted."""
    save_total_limit: int = opt(2, ge=1)
    """Checkpoints kept (the best one is kept besides)."""
    eval_steps: int = opt(0, affects="train", ge=0)
    """Measure the loss on the held-out rows every so many steps; 0: never."""
    load_best_model_at_end: bool = opt(False, affects="train")
    """Keep the checkpoint with the lowest held-out loss instead of the last."""
    early_stopping_patience: int | None = opt(None, affects="train", ge=1)
    """Stop after so many held-out measurements without improvement."""
    max_loss_factor: float = opt(20.0, gt=1)
    """Stop when the loss exceeds this multiple of its lowest value so far (of its first, where the task is not `sft`): it has exploded."""
