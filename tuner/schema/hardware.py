"""The `hardware:` section: where the work is placed; it changes no result. `hardware: cpu`, `hardware: {device: cpu}`, `hardware: fsdp`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import Section, opt


class Device(StrEnum):
    """Kinds of device."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    xpu = "xpu"


class Kernels(StrEnum):
    """Left to us, asked for, or ruled out."""

    auto = "auto"
    always = "always"
    never = "never"


@dataclass(kw_only=True)
class Hardware(Section):
    """What all have: device and memory choices; nothing here enters a key."""

    device: Device = opt(Device.auto)
    """`auto` takes a GPU where there is one, and says which."""
    micro_batch_size: int | None = opt(None, ge=1)
    """Rows in one forward pass; the rest of `trainer.batch_size` is accumulated. Default: as many as fit, at most 8 on a GPU."""
    memory_gb: float | None = opt(None, gt=0)
    """Memory of one device in GB, for the memory plan; default: what is found here."""
    fused_kernels: Kernels = opt(Kernels.auto)
    """Liger's kernels for norms, rotary embedding and gated activation, on a CUDA GPU: a fifth faster; `auto`: where they are installed."""
    num_workers: int = opt(0, ge=0)
    """Streaming: processes that read and tokenize beside the training; 0: the training process does it."""
    num_threads: int | None = opt(None, ge=1, le=1024)
    """CPU threads; default: every core this process may use."""
    async_save: bool = opt(True)
    """Write checkpoints beside the training, from a copy of what is trained and of the optimizer's state; `false`: training waits."""

    model_parallel: ClassVar[tuple[str, ...]] = ()
    """Fields that say over how many devices one row is shared."""

    @property
    def devices_per_row(self) -> int:
        """Devices that work on the same rows: 1, but for tensor, context and sequence parallel training."""
        found = 1
        for name in self.model_parallel:
            found *= getattr(self, name)
        return found


@kind("hardware", "auto")
@dataclass(kw_only=True)
class OneDevice(Hardware):
    """One process on one device."""


@dataclass(kw_only=True)
class Distributed(Hardware):
    """Training by several processes, one a device. `impl` is the module with its `STRATEGY` (`train/strategies/base.py`).

    All else (preparing, measuring, publishing) is done by one process, before and after.
    """

    num_processes: int | None = opt(None, ge=1)
    """Processes that train, one a device; default: as many as this machine has GPUs."""


@kind("hardware", "ddp")
@dataclass(kw_only=True)
class Ddp(Distributed):
    """Each device holds the whole model and takes its part of the rows; gradients are averaged. On CPUs too."""

    impl: ClassVar[str] = "tuner.train.strategies.ddp"

    bucket_cap_mb: int = opt(25, ge=1)
    """Gradients are sent in buckets of so many MB, while the backward pass goes on."""
    static_graph: bool = opt(False)
    """Every step uses the same parameters: lets PyTorch order its sending once."""


class StateDict(StrEnum):
    """How a checkpoint holds sharded weights."""

    full = "full"
    sharded = "sharded"


@kind("hardware", "fsdp")
@dataclass(kw_only=True)
class Fsdp(Distributed):
    """Fully sharded (FSDP2): weights, gradients and optimizer states are cut over the devices, and gathered block by block."""

    impl: ClassVar[str] = "tuner.train.strategies.fsdp"
    model_parallel: ClassVar[tuple[str, ...]] = ("tp_size", "cp_size")

    reshard_after_forward: bool = opt(True)
    """Let go of a block's weights after its forward pass and gather them again for the backward one; `false`: keep them between."""
    cpu_offload: bool = opt(False)
    """Hold weights, gradients and optimizer states in the host's memory: slow, for a model that fits no other way."""
    cpu_ram_efficient_loading: bool = opt(True)
    """One process reads the weights and hands each its part; `false`: every process reads them all."""
    state_dict_type: StateDict = opt(StateDict.full)
    """Weights in a checkpoint: gathered into one file, or a file a process (faster for full fine-tuning of large models)."""
    dp_replicate_size: int = opt(1, ge=1)
    """Hybrid sharding: so many copies of the model, each cut over its own group of devices (a machine, mostly)."""
    tp_size: int = opt(1, ge=1)
    """Tensor parallel: each weight matrix is cut over so many devices, which work on the same rows."""
    cp_size: int = opt(1, ge=1)
    """Context parallel: each row is cut over so many devices (ring attention); for rows that fit no single one."""


@kind("hardware", "deepspeed")
@dataclass(kw_only=True)
class DeepSpeed(Distributed):
    """DeepSpeed's ZeRO: optimizer states (1), gradients (2) and weights (3) cut over the devices. Extra `deepspeed`."""

    impl: ClassVar[str] = "tuner.train.strategies.deepspeed"
    model_parallel: ClassVar[tuple[str, ...]] = ("sp_size",)

    zero_stage: int = opt(2, ge=1, le=3)
    """What is cut over the devices: 1 optimizer states, 2 gradients as well, 3 weights as well."""
    offload_optimizer: bool = opt(False)
    """Optimizer states in the host's memory."""
    offload_param: bool = opt(False)
    """Stage 3: weights in the host's memory as well."""
    sp_size: int = opt(1, ge=1)
    """Sequence parallel (Ulysses): each row is cut over so many devices, heads exchanged in attention."""
