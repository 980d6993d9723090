"""The rules of `checks.py` that are about several devices: what a strategy can cut, and what it cannot."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.schema.adapter import MOVES_THE_BASE, AdaLora, Full, Init, Lora, QLora, Quant
from tuner.schema.debug import LrFinder, Overfit
from tuner.schema.hardware import Ddp, DeepSpeed, Device, Distributed, Fsdp
from tuner.schema.recipe import Recipe
from tuner.schema.task import Sft
from tuner.schema.trainer import BITSANDBYTES, PROJECTED, SCHEDULE_FREE, Choice, Optim, Precision

Finding = tuple[str, str, str]


def places(recipe: Recipe) -> Iterator[Finding]:
    """Which devices a strategy is for, and how many of them."""
    hardware = recipe.hardware
    if not isinstance(hardware, Distributed):
        return
    if hardware.device is Device.mps:
        yield "hardware.device", f"`hardware={hardware.kind}` is for several devices, and a Mac has one", "use `hardware=mps`"
    if hardware.device is Device.cpu and not isinstance(hardware, Ddp):
        what = f"`hardware={hardware.kind}` cuts a model over GPUs: Accelerate does not do it on CPUs"
        yield "hardware.device", what, "use `hardware=ddp`, or leave `hardware.device` out"
    if hardware.device is Device.cpu and isinstance(hardware, Ddp) and hardware.num_processes is None:
        yield "hardware.num_processes", "a CPU does not say how many processes it is for", "set `hardware.num_processes=2`, say"
    count, row = hardware.num_processes, hardware.devices_per_row
    copies = row * (hardware.dp_replicate_size if isinstance(hardware, Fsdp) else 1)
    if count and count % copies:
        what = f"`hardware.num_processes` ({count}) is no multiple of {copies}: so many make one copy of the model, or share one row"
        yield "hardware.num_processes", what, "choose a multiple"
    elif count and recipe.trainer.batch_size % (count // row * (hardware.micro_batch_size or 1)):
        parts = f"{count // row} devices" + (f" × {hardware.micro_batch_size} rows" if hardware.micro_batch_size else "")
        what = f"`trainer.batch_size` ({recipe.trainer.batch_size}) cannot be shared by {parts}"
        yield "trainer.batch_size", what, "choose a multiple: the global batch is what a recipe promises"


def cutting(recipe: Recipe) -> Iterator[Finding]:
    """What cannot be trained on weights that are cut over devices, and why."""
    hardware, adapter, trainer = recipe.hardware, recipe.adapter, recipe.trainer
    if not isinstance(hardware, Fsdp | DeepSpeed):
        return
    cut, other = f"with `hardware={hardware.kind}` no process holds all of the weights", "use `hardware=ddp`"
    if isinstance(adapter, AdaLora):
        yield "adapter", f"AdaLoRA chooses ranks by looking at all of them, and {cut}", f"{other}, or `adapter=lora`"
    if isinstance(adapter, Lora) and adapter.init_lora_weights in (*MOVES_THE_BASE, Init.eva):
        what = f"`adapter.init_lora_weights={adapter.init_lora_weights}` looks at whole weights, and {cut}"
        yield "adapter.init_lora_weights", what, f"{other}, or `adapter=lora`"
    if recipe.model.add_tokens:
        yield "model.add_tokens", f"rows of an embedding are trained by themselves, and {cut}", other
    if isinstance(adapter, QLora) and adapter.quant is Quant.int8:
        yield "adapter.quant", "int8 weights cannot be cut: each row has a scale of its own", f"use `adapter.quant=nf4`, or {other[4:]}"
    if isinstance(adapter, QLora) and isinstance(hardware, DeepSpeed) and hardware.zero_stage == 3:
        yield "adapter", "ZeRO 3 loads weights cut, before they can be quantised", "use `hardware=fsdp`, or `hardware.zero_stage=2`"
    if trainer.optim in BITSANDBYTES | PROJECTED | {Optim.muon}:
        what = f"`trainer.optim={trainer.optim}` works on whole tensors, and {cut}"
        yield "trainer.optim", what, f"use `adamw_torch_fused`: its states are cut; or {other[4:]}"
    if trainer.ema_decay is not None:
        yield "trainer.ema_decay", f"an average is kept of whole weights, and {cut}", other
    if trainer.checkpoint_every_n_layers > 1 and isinstance(hardware, Fsdp):
        yield "trainer.checkpoint_every_n_layers", "FSDP recomputes each block that it gathers", "leave it out"
    if trainer.activation_offloading and isinstance(hardware, Fsdp):
        yield "trainer.activation_offloading", "FSDP gathers and recomputes blocks itself", "leave it out, or use `hardware=fsdp_offload`"


def deepspeed(recipe: Recipe) -> Iterator[Finding]:
    """What is DeepSpeed's alone."""
    hardware, trainer = recipe.hardware, recipe.trainer
    if not isinstance(hardware, DeepSpeed):
        return
    if hardware.offload_param and hardware.zero_stage < 3:
        yield "hardware.offload_param", f"ZeRO {hardware.zero_stage} does not cut weights, so none can be offloaded", "set `zero_stage: 3`"
    if trainer.optim in SCHEDULE_FREE:
        yield "trainer.optim", f"DeepSpeed wraps the optimizer, and `{trainer.optim}` must be told when to average", "use `hardware=fsdp`"
    if isinstance(recipe.debug, LrFinder | Overfit):
        yield (
            "debug",
            f"`debug={recipe.debug.kind}` sets the rates of an optimizer that DeepSpeed wraps",
            "look on one device: `hardware=auto`",
        )


def sharing_rows(recipe: Recipe) -> Iterator[Finding]:
    """Where several devices work on one row."""
    hardware, trainer = recipe.hardware, recipe.trainer
    if hardware.devices_per_row == 1:
        return
    names = " and ".join(f"`hardware.{name}`" for name in hardware.model_parallel if getattr(hardware, name) > 1)
    if trainer.padding_free is Choice.always:
        what = f"{names} cuts padded rows; rows laid end to end have borders that it does not know"
        yield "trainer.padding_free", what, "leave `trainer.padding_free` out"
    if recipe.data.streaming:
        yield "data.streaming", f"a stream gives each process rows of its own, and {names} shares them", "set `data.streaming=false`"
    tensors = isinstance(hardware, Fsdp) and hardware.tp_size > 1
    if tensors and (trainer.save_steps or trainer.load_best_model_at_end):
        what = "Transformers cannot write checkpoints of a model that is cut as it is loaded (tensor parallel)"
        yield "trainer.save_steps", what, "set `trainer.save_steps=0` (a run that is stopped then begins anew), or use `hardware=fsdp`"
    if tensors and not isinstance(recipe.adapter, Full):
        what = "tensor parallel weights are cut as they are loaded, and an adapter's are not"
        yield "hardware.tp_size", what, "use `adapter=full`, or `hardware=fsdp` without it"
    if isinstance(recipe.task, Sft) and recipe.task.packing:
        yield "task.packing", f"{names} does not know where a packed row's conversations end", "set `task.packing=false`"
    if isinstance(hardware, Fsdp) and hardware.cp_size > 1 and trainer.precision is Precision.fp32:
        yield "trainer.precision", "ring attention has no fp32", "use `trainer.precision=bf16`"


RULES = (places, cutting, deepspeed, sharing_rows)
