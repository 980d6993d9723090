"""What fits: `choose(recipe, shape, length=512, place=capacity(recipe.hardware))` -> micro-batch, recomputation, and why. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tuner.capacity import Capacity, planned_processes
from tuner.dimensions import teacher_bytes
from tuner.memory import Load, Need, cuts, need, with_trainer
from tuner.schema.recipe import Recipe

USABLE = 0.9  # of the memory there is: the sum is right to within 15 %
GPU_MICRO_BATCH = 8  # more rows at once make a GPU no faster


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """How the global batch is placed: rows at once, how many times, with recomputation or not; what that needs, and why, in a line."""

    micro_batch: int
    accumulation: int
    activation_checkpointing: bool
    need: Need
    fits: bool | None
    said: str


def usable(place: Capacity, processes: int) -> float | None:
    """Bytes that one process may fill: a machine's memory is for all of them. None where nobody knows."""
    return place.bytes * USABLE / (processes if place.cpu else 1) if place.bytes else None


def choose(recipe: Recipe, shape: dict[str, Any], *, length: float, place: Capacity, processes: int | None = None) -> Chosen | None:
    """Micro-batch, recomputation and accumulation: as written, else the most rows that fit; None where the sizes are not known.

    Only where not even one row fits is recomputation chosen that the recipe does not ask for: it changes no result. Of several
    `processes` (default: as many as are planned) each group that shares rows takes its part of the batch.
    """
    processes = processes or planned_processes(recipe.hardware)
    groups = max(1, processes // recipe.hardware.devices_per_row)
    batch = max(1, recipe.trainer.batch_size // groups)
    written = recipe.hardware.micro_batch_size
    most = batch if place.cpu else min(batch, GPU_MICRO_BATCH)
    sizes = [written] if written else [n for n in range(most, 0, -1) if batch % n == 0]
    asked = recipe.trainer.activation_checkpointing
    room = usable(place, processes)
    cut = cuts(recipe.hardware, processes)
    tries = [(rows, asked) for rows in sizes] + ([] if written or asked else [(rows, True) for rows in sizes])
    found = []
    for rows, recompute in tries:
        load = Load(rows=rows, length=length, cpu=place.cpu, cuts=cut)
        needed = need(with_trainer(recipe, activation_checkpointing=recompute), shape, load)
        if needed is None:
            return None
        found.append((rows, recompute, needed))
        if room is None or needed.total <= room:
            break
    else:  # nothing fits: the least
        found.append(min(found, key=lambda one: one[2].total))
    rows, recompute, needed = found[-1]
    fits = None if room is None else needed.total <= room
    why = (
        "as hardware.micro_batch_size says" if written else "the most that fits" if fits else "the least there is" if fits is False else ""
    )
    size = f"{needed.total / 1e9:.1f} GB" + (f" of {place.bytes / 1e9:.1f} GB ({place.source})" if place.bytes else f"; {place.source}")
    size += f" on each of {processes}" if processes > 1 else ""
    said = f"micro-batch {rows} × {batch // rows}, recomputation {'on' if recompute else 'off'}: {size}" + (f", {why}" if why else "")
    said += "; it does not fit" if fits is False else ""
    said += "; without the teacher, whose size is not known" if teacher_bytes(recipe) is None else ""
    passes = batch // rows
    return Chosen(micro_batch=rows, accumulation=passes, activation_checkpointing=recompute, need=needed, fits=fits, said=said)
