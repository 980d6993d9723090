"""`tune plan memory recipe=R [key=value …]`: peak memory by strategy, micro-batch and length, from the model's dimensions alone.

tune plan memory recipe=my.yaml                          what fits this machine
tune plan memory recipe=my.yaml hardware.memory_gb=24    what would fit another
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from tuner.capacity import capacity, planned_processes, settled
from tuner.commands.request import parse, planned
from tuner.dimensions import trainable
from tuner.errors import TuneError
from tuner.estimate import longest, shape
from tuner.memory import Load, cuts, need, with_trainer
from tuner.placement import choose, usable
from tuner.render import out, print_json, table
from tuner.schema.adapter import Full, Lora, QLora
from tuner.schema.hardware import Ddp, DeepSpeed, Distributed, Fsdp, Hardware
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Choice


def main(args: list[str]) -> int:
    """Print what is chosen and why, then the table."""
    request = parse(args, flags=("--json", "--extensions", "--trust"), words=1)
    if request.words != ["memory"]:
        raise TuneError("`tune plan` plans memory", " ".join(request.words), "say `tune plan memory recipe=R`")
    plan = planned(request)
    recipe, dimensions = plan.load_recipe(), shape(plan)
    if not recipe.task.planned:
        what = f"the memory of a model of `task={recipe.task.kind}` is not worked out: only language models have the dimensions for it"
        raise TuneError(what, "task", "set `hardware.micro_batch_size`; memory that runs out in training halves it, and the batch is kept")
    if dimensions is None:
        fix = "set model.shape, or model.id to a local folder with a config.json"
        raise TuneError(f"the dimensions of {recipe.model.id} are not known without downloading it", "model.shape", fix)
    place, length = capacity(recipe.hardware), longest(plan)
    recipe = settled(recipe, "cpu" if place.cpu else "cuda")
    chosen = choose(recipe, dimensions, length=length, place=place)
    rows = [*_rows(recipe, dimensions, length, cpu=place.cpu)]
    room = usable(place, planned_processes(recipe.hardware))
    for row in rows:
        row["fits"] = None if room is None else row["total"] <= room
    if request.json:
        device = {"bytes": place.bytes, "usable_bytes": room and round(room), "source": place.source}
        print_json({"device": device, "chosen": chosen and dataclasses.asdict(chosen) | {"total": chosen.need.total}, "table": rows})
        return 0
    out.print(chosen.said if chosen else "the recipe's own adapter has a size that only the model tells; others:")
    out.print()
    own = "padded" if recipe.trainer.padding_free is Choice.never else "free"
    parts = {"weight": "weights", "grad": "gradients", "optim": "optimizer", "activ": "activations", "logits": "logits"}
    lines = [
        [row["strategy"], row["recompute"], str(row["micro_batch"]), str(row["tokens"])]
        + [f"{row[part] / 1e9:.2f}" for part in parts.values()]
        + [f"{(row['process'] + row['copies']) / 1e9:.2f}", f"{row['total'] / 1e9:.2f}"]
        + [{True: "yes", False: "no", None: "?"}[row["fits"]]]
        for row in rows
        if row["padding"] == own
    ]
    columns = ["adapter", "redo", "rows", "tokens", *parts, "other", "total", "fits"]
    title = "GB on one device; redo: recomputation; the peak is before the backward pass, or as the optimizer steps"
    table(columns, lines, title=title, right=range(2, 11), close=True)
    return 0


def _rows(recipe: Recipe, dimensions: dict[str, Any], length: int, *, cpu: bool) -> Iterator[dict[str, Any]]:
    """Each strategy, padded or not, recomputing or not, at 1 row, 4 rows and the whole batch, of the longest and of half that.

    Of several devices each way to cut the model over them, at 1 row and 4.
    """
    own = recipe.adapter
    lora = own if isinstance(own, Lora) and not isinstance(own, QLora) else Lora()
    adapters = {"full": Full(), "lora": lora, "qlora": own if isinstance(own, QLora) else QLora(r=lora.r)}
    processes = planned_processes(recipe.hardware)
    batch = recipe.trainer.batch_size // max(1, processes // recipe.hardware.devices_per_row)
    wanted, lengths = [1, 4, batch], sorted({max(1, length // 2), length})
    places: dict[str, Hardware] = {"": recipe.hardware}
    if isinstance(recipe.hardware, Distributed):
        wanted, lengths, places = [1, 4], [length], {"ddp": Ddp(), "fsdp": Fsdp(), "zero2": DeepSpeed(), "zero3": DeepSpeed(zero_stage=3)}
        places[recipe.hardware.kind] = recipe.hardware
    sizes = sorted({n for n in wanted if batch % n == 0})
    for (name, adapter), (over, hardware) in itertools.product(adapters.items(), places.items()):
        if trainable(adapter, dimensions) is None or (name == "qlora" and over == "zero3"):
            continue
        strategy, cut = f"{name} {over}".strip(), cuts(hardware, processes)
        for padding, choice in (("free", Choice.always), ("padded", Choice.never)):
            for recompute in (False, True):
                given = dataclasses.replace(recipe, adapter=adapter)
                given = with_trainer(given, activation_checkpointing=recompute, padding_free=choice)
                for micro in sizes:
                    for tokens in lengths:
                        found = need(given, dimensions, Load(rows=micro, length=tokens, cpu=cpu, cuts=cut))
                        assert found is not None
                        about = {"strategy": strategy, "padding": padding, "recompute": "on" if recompute else "off"}
                        yield about | {"micro_batch": micro, "tokens": tokens} | dataclasses.asdict(found) | {"total": found.total}
