"""The `hardware:` section: where the work is placed; it changes no result. `hardware: {device: cpu}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

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
    """Device and memory choices; nothing here enters a key."""

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
    num_threads: int | None = opt(None, ge=1)
    """CPU threads; default: every core this process may use."""
    async_save: bool = opt(True)
    """Write checkpoints beside the training, from a copy of what is trained and of the optimizer's state; `false`: training waits."""
