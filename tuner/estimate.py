"""Steps, tokens, parameters and memory of a plan, with nothing downloaded and no torch: `estimate(plan)`. "≈" until prepared."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.files import COMPRESSED, format_of, is_remote
from tuner.plan import Plan
from tuner.proportions import apportioned, sizes
from tuner.runs import read_json
from tuner.schema.adapter import Full, Lora, QLora, Quant
from tuner.schema.data import source_key, sources
from tuner.schema.model import Dtype
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Optim

BYTES = {Dtype.bfloat16: 2, Dtype.float16: 2, Dtype.float32: 4}
PROCESS_BYTES = 1.3e9  # torch, Transformers and what they keep: 1.2 to 1.9 GB beyond the sum below were seen on a CPU
CHARACTERS_PER_TOKEN = 4.0
# What a trained parameter costs beside itself: gradient, and the optimizer's moments (all in fp32).
STATES = {
    Optim.adamw_torch: 3.0,
    Optim.adamw_torch_fused: 3.0,
    Optim.adamw_bnb_8bit: 1.5,
    Optim.paged_adamw_32bit: 3.0,
    Optim.paged_adamw_8bit: 1.5,
    Optim.adafactor: 1.0,
    Optim.lion_32bit: 2.0,
    Optim.lion_8bit: 1.25,
    Optim.paged_lion_8bit: 1.25,
    Optim.muon: 2.0,
    Optim.sgd: 1.0,
}


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


def estimate(plan: Plan) -> Estimate:
    """Work out a plan's size from its data files (or its prepared data) and the model's dimensions."""
    recipe = plan.load_recipe()
    rows, tokens, exact = _count(plan)
    shape = _shape(plan, recipe)
    steps = recipe.trainer.max_steps
    if steps is None and rows is not None:
        steps = max(1, math.ceil(math.ceil(rows / recipe.trainer.batch_size) * recipe.trainer.num_train_epochs))
    epochs = steps * recipe.trainer.batch_size / rows if steps and rows else None
    parameters = _parameters(shape) if shape else None
    trainable = _trainable(recipe, shape) if shape else None
    return Estimate(
        exact=exact,
        rows=None if recipe.data.streaming else rows,
        tokens=round(tokens * epochs) if tokens and epochs else None,
        steps=steps,
        parameters=parameters,
        trainable=trainable,
        memory_bytes=_memory(recipe, shape, trainable, tokens / rows if tokens and rows else 512.0) if shape and trainable else None,
    )


def _count(plan: Plan) -> tuple[int | None, int | None, bool]:
    """(rows, tokens of one epoch, whether they were counted)."""
    prepare = plan.stage("prepare")
    if prepare.done:
        train = read_json(Path(prepare.folder) / "data.json")["train"]
        return train["rows"], train["tokens"], True
    data = plan.load_recipe().data
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
    written = sum(rows * length for rows, length in zip(used, lengths, strict=True))
    return sum(used), round(written / CHARACTERS_PER_TOKEN), False


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


def _shape(plan: Plan, recipe: Recipe) -> dict[str, Any] | None:
    """The model's dimensions: as written in the recipe, or from a local config.json."""
    if plan.recipe["model"]["shape"]:
        return dict(plan.recipe["model"]["shape"])
    path = Path(recipe.model.id).expanduser() / "config.json"
    if not path.is_file():
        return None
    config = read_json(path)
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    if any(k not in config for k in needed):
        return None
    defaults = {"num_key_value_heads": config["num_attention_heads"], "tie_word_embeddings": False}
    return {k: config.get(k, defaults.get(k)) for k in (*needed, *defaults)} | {"head_dim": config.get("head_dim")}


def _linears(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear map of a Llama-like block."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    head = shape.get("head_dim") or hidden // shape["num_attention_heads"]
    queries, keys = head * shape["num_attention_heads"], head * shape["num_key_value_heads"]
    return {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "gate_proj": (hidden, inner),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def _parameters(shape: dict[str, Any]) -> int:
    block = sum(a * b for a, b in _linears(shape).values()) + 2 * shape["hidden_size"]
    embeddings = shape["vocab_size"] * shape["hidden_size"] * (1 if shape["tie_word_embeddings"] else 2)
    return int(block * shape["num_hidden_layers"] + embeddings + shape["hidden_size"])


def _trainable(recipe: Recipe, shape: dict[str, Any]) -> int | None:
    adapter = recipe.adapter
    if isinstance(adapter, Full):
        return _parameters(shape)
    if not isinstance(adapter, Lora) or adapter.modules_to_save:
        return None
    linears = _linears(shape)
    if adapter.target_modules != "all-linear":
        if isinstance(adapter.target_modules, str):
            return None
        linears = {n: linears[n] for n in adapter.target_modules if n in linears}
    magnitudes = sum(b for _, b in linears.values()) if adapter.use_dora else 0
    block = sum(adapter.r * (a + b) for a, b in linears.values()) + magnitudes
    return int(block * shape["num_hidden_layers"])


def _memory(recipe: Recipe, shape: dict[str, Any], trainable: int, tokens_per_row: float) -> int:
    """Weights, trained copies with gradient and moments, activations of one forward pass, logits of its trained tokens."""
    width = float(BYTES[recipe.model.dtype])
    weights = _parameters(shape) * width
    if isinstance(recipe.adapter, QLora):
        quantised = sum(a * b for a, b in _linears(shape).values()) * shape["num_hidden_layers"]
        weights -= quantised * (width - (1.0 if recipe.adapter.quant is Quant.int8 else 0.55))
    full = isinstance(recipe.adapter, Full)
    if full:  # fp32 weights are what is updated
        weights *= 4.0 / width
    states = trainable * 4.0 * (STATES[recipe.trainer.optim] + (0 if full else 1))
    tokens = (recipe.hardware.micro_batch_size or recipe.trainer.batch_size) * min(tokens_per_row, recipe.task.max_length)
    # About 16 hidden widths and 4 MLP widths a token and block are kept for the backward pass (https://arxiv.org/abs/2205.05198).
    kept = (
        2 * shape["hidden_size"] if recipe.trainer.activation_checkpointing else 16 * shape["hidden_size"] + 4 * shape["intermediate_size"]
    )
    activations = tokens * kept * shape["num_hidden_layers"] * 2
    logits = tokens * 0.4 * shape["vocab_size"] * 4
    return int(PROCESS_BYTES + weights + states + activations + logits)
