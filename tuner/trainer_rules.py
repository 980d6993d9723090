"""The rules of `checks.py` that are about the training loop: optimizers and what they can be told, activations, looks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.errors import nearest
from tuner.schema.adapter import AdaLora, Full, Lora
from tuner.schema.beyond_lora import Prefix
from tuner.schema.debug import LrFinder, Noise, Overfit
from tuner.schema.hardware import DeepSpeed, Device, Fsdp
from tuner.schema.model import Dtype
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import OPTIM_ARGS, PROJECTED, SCHEDULE_FREE, Optim, Precision, Scheduler

Finding = tuple[str, str, str]


def rates(recipe: Recipe) -> Iterator[Finding]:
    """LoRA+ is groups of an optimizer, and Muon makes its own; what is not autocast is computed in the format of the weights."""
    precision, dtype = recipe.trainer.precision, recipe.model.dtype
    if precision in (Precision.fp32, Precision.tf32) and dtype not in (Dtype.auto, Dtype.float32) and not isinstance(recipe.adapter, Full):
        what = f"the base would compute in {dtype.value}, whatever `trainer.precision={precision.value}` says: nothing casts its weights"
        yield "trainer.precision", what, "leave `model.dtype` out, or use `trainer.precision=bf16`"
    if isinstance(recipe.adapter, Lora) and recipe.adapter.loraplus_lr_ratio and recipe.trainer.optim is Optim.muon:
        yield "trainer.optim", "LoRA+ gives the second matrix a rate of its own, and `muon` one to all", "use another optimizer"


def optimizers(recipe: Recipe) -> Iterator[Finding]:
    """What an optimizer can be told, and where it fits."""
    trainer = recipe.trainer
    known = OPTIM_ARGS.get(trainer.optim, {})
    for name, value in trainer.optim_args.items():
        if name in known and (wanted := _unlike(value, known[name])):
            yield "trainer.optim_args", f"`{name}` of `{trainer.optim}` is {wanted}, not {value!r}", "mend it"
        if name not in known:
            guess = nearest(name, known)
            fix = f"did you mean `{guess}`?" if guess else f"it has: {', '.join(known)}" if known else "leave it out"
            yield "trainer.optim_args", f"`{trainer.optim}` has no setting `{name}`", fix
    if trainer.optim_args.get("nesterov") is True and (not trainer.optim_args.get("momentum") or trainer.optim_args.get("dampening")):
        yield "trainer.optim_args", "Nesterov's step needs `momentum`, and no `dampening`", "set `momentum: 0.9`, say"
    if trainer.optim in SCHEDULE_FREE and trainer.lr_scheduler_type is not Scheduler.constant:
        what = f"`{trainer.optim}` averages instead of lowering the rate, and `trainer.lr_scheduler_type` is {trainer.lr_scheduler_type}"
        yield "trainer.lr_scheduler_type", what, "set `trainer.lr_scheduler_type=constant` (`warmup_ratio` still warms it up)"
    if trainer.optim in SCHEDULE_FREE and trainer.ema_decay is not None:
        yield "trainer.ema_decay", f"`{trainer.optim}` averages the weights itself", "remove one of the two"
    if trainer.ema_decay is not None and isinstance(recipe.adapter, AdaLora):
        yield "trainer.ema_decay", "AdaLoRA cuts ranks, and an average would have those that were cut", "remove one of the two"
    if trainer.optim in PROJECTED and not isinstance(recipe.adapter, Full):
        what = f"`{trainer.optim}` keeps the moments of large matrices small, and an adapter's are small as they are"
        yield "trainer.optim", what, "use it with `adapter=full`"


def looking(recipe: Recipe) -> Iterator[Finding]:
    """One batch again and again is no stream; a search needs a range, and all of its steps."""
    debug, most = recipe.debug, recipe.trainer.max_steps
    if debug.least_steps > (most or 0):
        what = f"`debug={debug.kind}` needs {debug.least_steps} steps, and `trainer.max_steps` is {most or 'not set'}"
        yield "trainer.max_steps", what, "leave it out: `debug.steps` says how many"
    if isinstance(debug, Overfit) and recipe.data.streaming:
        yield "debug", "`debug=overfit` takes the first batch again and again, and a stream never comes back", "set `data.streaming=false`"
    if isinstance(debug, LrFinder) and debug.lr_min >= debug.lr_max:
        yield "debug.lr_max", f"`debug.lr_max` ({debug.lr_max:g}) is not above `debug.lr_min` ({debug.lr_min:g})", "raise it"
    if isinstance(debug, Noise):
        yield from _noise(recipe)


def _noise(recipe: Recipe) -> Iterator[Finding]:
    """Gradients of micro-batches are compared with their sum, on one device."""
    trainer, micro = recipe.trainer, recipe.hardware.micro_batch_size or 1
    if trainer.batch_size <= micro:
        what = (
            f"`debug=noise` compares micro-batches, and `trainer.batch_size` ({trainer.batch_size}) is not above the micro-batch ({micro})"
        )
        yield "trainer.batch_size", what, "set `trainer.batch_size=8`, say" if micro == 1 else "leave `hardware.micro_batch_size` out"
    if recipe.hardware.impl:
        what = f"`debug=noise` reads the gradients of one device, and `hardware={recipe.hardware.kind}` shares them"
        yield "debug", what, "look on one device: `hardware=auto`"
    if trainer.precision is Precision.fp16:
        yield "trainer.precision", "`debug=noise` reads gradients, and fp16 scales them", "use `trainer.precision=bf16`, or fp32"
    if trainer.label_smoothing_factor:
        what = "`debug=noise` counts the labels that a model is given, and smoothing may keep them back"
        yield "trainer.label_smoothing_factor", what, "leave it out"
    if isinstance(recipe.adapter, AdaLora):
        yield "adapter", "`debug=noise` would take AdaLoRA's penalty for a gradient of the rows", "look with `adapter=lora`"


def _unlike(value: Any, kind: Any) -> str:
    """What a setting of an optimizer must be, where it is something else; whole numbers and steps begin at 1, others at 0."""
    if isinstance(kind, tuple):
        return "" if value in kind else f"one of {', '.join(kind)}"
    if kind is bool:
        return "" if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return "" if number and isinstance(value, int) and value >= 1 else "a whole number from 1 on"
    return "" if number and value >= 0 else "a number from 0 on"


def recomputing(recipe: Recipe) -> Iterator[Finding]:
    """How activations are kept belongs to checkpointing them."""
    trainer = recipe.trainer
    if trainer.activation_checkpointing and isinstance(recipe.adapter, Prefix):
        what = "a prefix stands in the cache of keys and values, and blocks that are computed again have none"
        yield "trainer.activation_checkpointing", what, "leave it out, or use `adapter=lora`"
    asked = {"checkpoint_every_n_layers": trainer.checkpoint_every_n_layers > 1, "activation_offloading": trainer.activation_offloading}
    for key in asked:
        if asked[key] and not trainer.activation_checkpointing:
            yield (
                f"trainer.{key}",
                f"`trainer.{key}` needs `trainer.activation_checkpointing`",
                "set `trainer.activation_checkpointing=true`",
            )


def compiling(recipe: Recipe) -> Iterator[Finding]:
    """One shape, and whole weights. 4-bit weights, and the ranks that AdaLoRA masks, are compiled with the rest: tests hold it."""
    if not recipe.trainer.torch_compile:
        return
    key = "trainer.torch_compile"
    if not getattr(recipe.task, "packing", False):
        yield key, "`trainer.torch_compile` is for one shape, and rows have many", "set `task.packing=true`"
    if isinstance(recipe.hardware, Fsdp | DeepSpeed):
        yield key, "weights that are gathered block by block are not compiled here", "use `hardware=ddp`, or leave it out"


def eight_bits(recipe: Recipe) -> Iterator[Finding]:
    """What torchao's 8-bit products are for."""
    if recipe.trainer.precision is not Precision.fp8:
        return
    key = "trainer.precision"
    if not isinstance(recipe.adapter, Full):
        yield key, f"fp8 is for weights that are trained, and {recipe.adapter.label} leaves them frozen", "use `bf16`, or `adapter=full`"
    if isinstance(recipe.hardware, DeepSpeed):
        yield key, "DeepSpeed has number formats of its own, without fp8", "use `hardware=fsdp`"
    if isinstance(recipe.hardware, Fsdp) and recipe.hardware.cpu_ram_efficient_loading:
        yield (
            "hardware.cpu_ram_efficient_loading",
            "8-bit layers cannot be made of weights that one process reads",
            "set it to false",
        )
    if recipe.hardware.device in (Device.cpu, Device.mps):
        yield key, f"fp8 is a format of NVIDIA GPUs since Ada, and this is {recipe.hardware.device}", "use `trainer.precision=bf16`"


RULES = (compiling, eight_bits, rates, optimizers, looking, recomputing)
