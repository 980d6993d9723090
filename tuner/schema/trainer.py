"""The `trainer:` section: how long, how fast, how often to look. `trainer: {learning_rate: 1e-4, batch_size: 32}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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


BITSANDBYTES = frozenset(o for o in Optim if "bit" in o)  # optimizers of this package


class Precision(StrEnum):
    """Autocast precisions."""

    bf16 = "bf16"
    fp16 = "fp16"
    fp32 = "fp32"


class Choice(StrEnum):
    """Left to us, asked for, or ruled out."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(kw_only=True)
class Trainer(Section):
    """The training loop's settings, under Transformers' names where it has them."""

    learning_rate: float = opt(2e-4, affects="train", gt=0, lt=10)
    """Peak learning rate."""
    num_train_epochs: float = opt(1.0, affects="train", gt=0)
    """Passes over the training rows, when `max_steps` is not set."""
    max_steps: int | None = opt(None, affects="train", ge=1)
    """Optimizer steps, instead of epochs."""
    batch_size: int = opt(16, affects="train", ge=1)
    """**Global** batch: rows an optimizer step sees over all devices (packed rows when packing)."""
    optim: Optim = opt(Optim.adamw_torch, affects="train")
    """Optimizer, by Transformers' name; `muon` is PyTorch's, for matrices, with AdamW for the rest."""
    weight_decay: float = opt(0.0, affects="train", ge=0)
    """Decoupled weight decay."""
    adam_beta1: float = opt(0.9, affects="train", ge=0, lt=1)
    """AdamW's first-moment decay."""
    adam_beta2: float = opt(0.999, affects="train", ge=0, lt=1)
    """AdamW's second-moment decay."""
    max_grad_norm: float = opt(1.0, affects="train", ge=0)
    """Gradients are clipped to this norm; 0: not clipped."""
    lr_scheduler_type: Scheduler = opt(Scheduler.cosine, affects="train")
    """Learning-rate curve after the warm-up."""
    warmup_ratio: float = opt(0.03, affects="train", ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    precision: Precision = opt(Precision.bf16, affects="train")
    """Autocast precision of the forward pass."""
    padding_free: Choice = opt(Choice.auto, affects="train")
    """Train on rows laid end to end without padding, scoring only trained tokens; `auto`: where the model supports it."""
    activation_checkpointing: bool = opt(False, affects="train")
    """Recompute activations in the backward pass: less memory, about 1.3 times the time (measured on a CPU)."""
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
    """Stop when the loss exceeds this multiple of its lowest value so far: training has exploded."""
