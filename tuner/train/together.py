"""What the processes of one training agree on: `total(n)`, `either(flag)`, `from_leader(make)`. Of one process: the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.schema.adapter import QLora
from tuner.schema.hardware import Fsdp, Hardware
from tuner.train.strategies.base import strategy_of

T = TypeVar("T")


def settle_in(run: Run, *, leads: bool, count: int) -> None:
    """This process takes its own device, and its share of the cores."""
    run.leads, run.world = leads, count
    if run.device.type == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(run.recipe.hardware.num_threads or max(1, cores // count))
    else:
        run.device = torch.device(run.device.type, int(os.environ["LOCAL_RANK"]))
        torch.accelerator.set_device_index(run.device.index)
    if isinstance(run.recipe.hardware, Fsdp) and not isinstance(run.recipe.adapter, QLora):
        run.loads_on = torch.device("cpu")  # and is cut from there


def complete(count: int) -> None:
    """Raises TuneError (code 4) where other than so many processes have come together: Accelerate goes on with one in silence."""
    if world_size() != count:
        what = f"{count} processes were started, and {world_size()} of them train together"
        raise TuneError(what, "hardware.num_processes", "report it with `tune doctor`", code=ENVIRONMENT)


def came_up(hardware: Hardware, trainer: Any) -> None:
    """Raises TuneError (code 4) where Accelerate has set up another strategy than was asked for: it does so in silence."""
    found = trainer.accelerator.distributed_type.value
    if found not in strategy_of(hardware).types(hardware):
        what = f"hardware={hardware.kind} was asked for, and Accelerate has set up {found}"
        raise TuneError(what, "hardware", "this device has no such strategy: use hardware=ddp, or see `tune doctor`", code=ENVIRONMENT)


def part() -> None:
    """The end of the training for this process."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Processes of this training."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leads() -> bool:
    """Whether this process is the one that writes."""
    return not dist.is_initialized() or dist.get_rank() == 0


@cache
def _line() -> Any:
    """A line of its own over the CPU: nothing waits for a GPU's queue."""
    return dist.new_group(backend="gloo")


def total(count: int) -> int:
    """The sum over all processes."""
    return int(totals(float(count))[0])


def totals(*counts: float) -> list[float]:
    """The sums over all processes."""
    if world_size() == 1:
        return list(counts)
    sums = torch.tensor(counts, dtype=torch.float64)
    dist.all_reduce(sums, group=_line())
    return [float(n) for n in sums]


def either(flag: bool) -> bool:
    """Whether it is so for one of them."""
    return total(int(flag)) > 0


def from_leader(make: Callable[[], T]) -> T:
    """What the leader makes, for all. An error of the leader ends its process, and with it the others."""
    if world_size() == 1:
        return make()
    box: list[Any] = [make() if leads() else None]
    dist.broadcast_object_list(box, src=0, group=_line())
    made: T = box[0]
    return made


def wait() -> None:
    """Until all are here."""
    if world_size() > 1:
        dist.barrier(group=_line())
