"""Steps, tokens, parameters and memory of a plan, with nothing downloaded and no torch: `estimate(plan)`. "≈" until prepared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.capacity import capacity, settled
from tuner.dimensions import local_shape, parameters, trainable
from tuner.files import COMPRESSED, format_of, is_remote
from tuner.placement import choose
from tuner.plan import Plan
from tuner.proportions import apportioned, sizes
from tuner.runs import read_json
from tuner.schema.data import source_key, sources
from tuner.schema.task import Pretrain, Sft

CHARACTERS_PER_TOKEN = 4.0
READ = ("causal", "sequence", "embedding", "seq2seq", "masked", "span", "token")  # heads of models whose rows are texts and nothing else


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """None where nothing is known without downloading. `exact`: rows and tokens were counted by the prepare stage."""

    exact: bool
    rows: int | None
    tokens: int | None
    steps: int | None
    parameters: int | None
    trainable: int | None
    memory_bytes: int | None
    memory: str | None


def estimate(plan: Plan) -> Estimate:
    """Work out a plan's size from its data files (or its prepared data) and the model's dimensions."""
    place = capacity(plan.load_recipe().hardware)
    recipe = settled(plan.load_recipe(), "cpu" if place.cpu else "cuda")
    rows, tokens, exact = _count(plan)
    if recipe.task.head not in READ and not (exact and recipe.task.counted == "tok"):  # lines name images and recordings, and hold none
        tokens = None
    dimensions = shape(plan)
    steps = recipe.trainer.max_steps
    if steps is None and rows is not None:
        steps = max(1, math.ceil(math.ceil(rows / recipe.trainer.batch_size) * recipe.trainer.num_train_epochs))
    epochs = steps * recipe.trainer.batch_size / rows if steps and rows else None
    trained = trainable(recipe.adapter, dimensions) if dimensions else None
    chosen = choose(recipe, dimensions, length=longest(plan), place=place) if dimensions and trained else None
    return Estimate(
        exact=exact,
        rows=None if recipe.data.streaming else rows,
        tokens=round(tokens * epochs) if tokens and epochs else None,
        steps=steps,
        parameters=parameters(dimensions) if dimensions else None,
        trainable=trained,
        memory_bytes=chosen.need.total if chosen else None,
        memory=chosen.said if chosen else None,
    )


def _count(plan: Plan) -> tuple[int | None, int | None, bool]:
    """(rows as the model sees them, tokens of one epoch, whether they were counted)."""
    prepare = plan.stage("prepare")
    if prepare.done:
        about = read_json(Path(prepare.folder) / "data.json")
        return about.get("packs", about["train"])["rows"], about["train"]["tokens"], True
    data, task = plan.load_recipe().data, plan.load_recipe().task
    if data.streaming:
        return None, None, False
    counts, lengths = [], []
    for name, source in sources(data).items():
        found = _count_files(plan.files.get(source_key(name, "path"), []))
        if found is None:
            return (data.limit if not data.mix else None), None, False
        rows, characters = found
        counts.append(min(rows, source.limit or rows))
        lengths.append(characters / max(rows, 1))
    if not (data.eval_path or data.eval_split):
        total = sum(counts)
        away = min(total, data.eval_rows or round(total * data.eval_fraction))
        counts = [count - part for count, part in zip(counts, apportioned(counts, away), strict=True)] if total else counts
    used = sizes(list(data.mix.values()), counts, data) if data.mix and all(counts) else counts
    tokens = round(sum(rows * length for rows, length in zip(used, lengths, strict=True)) / CHARACTERS_PER_TOKEN)
    full = isinstance(task, Pretrain) or (isinstance(task, Sft) and task.packing)
    return math.ceil(tokens / task.max_length) if full else sum(used), tokens, False


def _count_files(files: list[str]) -> tuple[int, int] | None:
    """(rows, characters) of local plain files; None for any other, or for none."""
    rows = characters = 0
    for name in files:
        kind = format_of(name)
        if is_remote(name) or name.endswith(COMPRESSED) or kind not in ("json", "jsonl", "csv", "tsv", "text"):
            return None
        with Path(name).open("rb") as stream:
            values = _array(stream.read()) if kind == "json" else None
            stream.seek(0)
            lines = [len(line) for line in stream if line.strip()]
        rows, characters = rows + (len(lines) if values is None else len(values)), characters + sum(lines)
    return (rows, characters) if files else None


def _array(text: bytes) -> list[Any] | None:
    """The rows of a JSON array, or of the only list in a mapping; None for what is not one, such as JSON lines under the name .json."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):  # what is wrong with it is told with its line when it is read
        return None
    if isinstance(values, dict):
        lists = [v for v in values.values() if isinstance(v, list)]
        return lists[0] if len(lists) == 1 else [values]
    return values if isinstance(values, list) else None


def shape(plan: Plan) -> dict[str, Any] | None:
    """The model's dimensions: as written in the recipe, or from a local config.json; None of a model that memory is not planned for."""
    if not plan.load_recipe().task.planned:
        return None
    written = plan.recipe["model"]["shape"]
    return dict(written) if written else local_shape(str(plan.recipe["model"]["id"]))


def longest(plan: Plan) -> int:
    """Tokens of the longest row, at most: the prepared rows', else (and of full rows, and of a stream) as long as a row may be."""
    prepare, task = plan.stage("prepare"), plan.load_recipe().task
    about = read_json(Path(prepare.folder) / "data.json") if prepare.done else {}
    there = 0 if "packs" in about or plan.load_recipe().data.streaming else about.get("train", {}).get("length", {}).get("max")
    return task.grown(int(there or task.max_length) * task.texts)
