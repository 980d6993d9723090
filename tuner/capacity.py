"""How much memory the device has, without torch: `capacity(recipe.hardware)` gives bytes and where the number is from."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tuner.schema.adapter import Full
from tuner.schema.hardware import DeepSpeed, Device, Distributed, Fsdp, Hardware
from tuner.schema.model import Dtype
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Precision

TIMEOUT_S = 3
WEIGHTS = {Precision.fp32: Dtype.float32, Precision.tf32: Dtype.float32, Precision.fp16: Dtype.float16}  # others: bfloat16
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """Bytes of one device (None: not known here), whether it is the CPU, and where the number comes from."""

    bytes: int | None
    cpu: bool
    source: str


def capacity(hardware: Hardware) -> Capacity:
    """The memory of the device that a recipe names: as written, or as detected."""
    gpu = None if hardware.device in (Device.cpu, Device.mps) else gpu_memory()
    sharded = isinstance(hardware, Fsdp | DeepSpeed)  # over GPUs, wherever this is asked
    cpu = not sharded and (hardware.device is Device.cpu or (hardware.device is Device.auto and gpu is None))
    if hardware.memory_gb is not None:
        return Capacity(bytes=round(hardware.memory_gb * 1e9), cpu=cpu, source="hardware.memory_gb")
    if cpu or hardware.device is Device.mps:  # Apple's GPU shares the memory
        return Capacity(bytes=ram(), cpu=cpu, source="memory of this machine or container")
    return Capacity(bytes=gpu, cpu=False, source="nvidia-smi" if gpu else "no GPU is found here: set hardware.memory_gb")


def bf16_units() -> list[str] | None:
    """What of this CPU multiplies bf16 itself; None where it does not say."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return None
    flags = set(info.read_text(encoding="utf-8").split())
    return [name for flag, name in (("avx512_bf16", "AVX-512 BF16"), ("amx_bf16", "AMX"), ("bf16", "BF16")) if flag in flags]


def settled(recipe: Recipe, device: str, *, narrow: bool | None = None) -> Recipe:
    """The recipe with number formats for a device ("cpu", "cuda" …) where it leaves them to us.

    `narrow`: whether that device multiplies bf16 itself (none: as far as it is known without torch). A CPU that does not is some
    30 times slower in bf16 than in fp32; there is no choice where the recipe holds frozen weights in 2 bytes.
    """
    precision, dtype = recipe.trainer.precision, recipe.model.dtype
    if precision is Precision.auto:
        narrow = narrow if narrow is not None else device != "cpu" or bf16_units() != []
        whole = dtype in (Dtype.auto, Dtype.float32) or isinstance(recipe.adapter, Full)
        wide = Precision.fp16 if device == "cuda" else Precision.fp32 if whole else Precision.bf16
        precision = Precision.bf16 if narrow else wide
    if dtype is Dtype.auto:
        dtype = WEIGHTS.get(precision, Dtype.bfloat16)
    if (precision, dtype) == (recipe.trainer.precision, recipe.model.dtype):
        return recipe
    trainer = dataclasses.replace(recipe.trainer, precision=precision)
    return dataclasses.replace(recipe, trainer=trainer, model=dataclasses.replace(recipe.model, dtype=dtype))


def ram() -> int:
    """Memory of the machine, or the container's own limit where that is lower."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in CGROUP_LIMITS:
        text = Path(name).read_text(encoding="utf-8").strip() if Path(name).is_file() else "max"
        total = total if text == "max" else min(total, int(text))
    return total


def planned_processes(hardware: Hardware) -> int:
    """How many train: as written, else as many as GPUs are found here."""
    if not isinstance(hardware, Distributed):
        return 1
    return hardware.num_processes or len(gpus()) or 1


def gpu_memory() -> int | None:
    """The smallest GPU's memory; None without one."""
    return min(gpus(), default=None)


@cache
def gpus() -> tuple[int, ...]:
    """Each GPU's memory, by the driver's own tool."""
    if shutil.which("nvidia-smi") is None:
        return ()
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    found = [int(line) * 2**20 for line in answer.stdout.split() if line.isdigit()]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(" ", "").split(",")  # indices; of a name the driver's order tells nothing
    if all(name.isdigit() and int(name) < len(found) for name in seen):
        return tuple(found[int(name)] for name in seen)
    return tuple(found)
