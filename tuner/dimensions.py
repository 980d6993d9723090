"""A model's dimensions and what follows from them, with no weights read: `parameters(shape)`, `trainable(adapter, shape)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tuner.runs import read_json
from tuner.schema.adapter import Adapter, Full, Lora, Quant
from tuner.schema.base import plain
from tuner.schema.distil import Distil, Held
from tuner.schema.model import Dtype
from tuner.schema.recipe import Recipe
from tuner.schema.teacher import is_base, teacher_of

BYTES = {Dtype.auto: 2.0, Dtype.bfloat16: 2.0, Dtype.float16: 2.0, Dtype.float32: 4.0}
QUANTISED = {Quant.nf4: 0.5625, Quant.fp4: 0.5625, Quant.int8: 1.0}  # bytes a weight; constants are fp32, a block of 64
DOUBLE_QUANTISED = 0.516  # their constants quantised too
NEEDED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


def local_shape(model_id: str) -> dict[str, Any] | None:
    """Dimensions from the config.json of a local folder; None where there is none, or it has others."""
    path = Path(model_id).expanduser() / "config.json"
    return shape_of(read_json(path)) if path.is_file() else None


def shape_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """Dimensions of a Transformers configuration, of its language model where it sees too; None when it is not a Llama-like one."""
    if isinstance(written := config.get("text_config"), dict):
        config = written | {"tie_word_embeddings": config.get("tie_word_embeddings", written.get("tie_word_embeddings", False))}
    if any(k not in config for k in NEEDED):
        return None
    defaults = {"num_key_value_heads": config["num_attention_heads"], "tie_word_embeddings": False}
    return {k: config.get(k, defaults.get(k)) for k in (*NEEDED, *defaults)} | {"head_dim": config.get("head_dim")}


def widths(shape: dict[str, Any]) -> tuple[int, int]:
    """(width of all queries, width of all keys) of a block."""
    head = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
    return head * shape["num_attention_heads"], head * shape["num_key_value_heads"]


def linears(shape: dict[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of each linear map of a Llama-like block."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    queries, keys = widths(shape)
    gate = {"gate_proj": (hidden, inner)} if shape.get("gated_mlp", True) else {}
    return gate | {
        "q_proj": (hidden, queries),
        "k_proj": (hidden, keys),
        "v_proj": (hidden, keys),
        "o_proj": (queries, hidden),
        "up_proj": (hidden, inner),
        "down_proj": (inner, hidden),
    }


def linear_parameters(shape: dict[str, Any]) -> int:
    """Parameters of all linear maps of the blocks: what quantising covers."""
    return int(sum(a * b for a, b in linears(shape).values()) * shape["num_hidden_layers"])


def parameters(shape: dict[str, Any]) -> int:
    """Parameters of the whole model."""
    norms = (2 * shape["num_hidden_layers"] + 1) * shape["hidden_size"]
    embeddings = shape["vocab_size"] * shape["hidden_size"] * (1 if shape["tie_word_embeddings"] else 2)
    return int(linear_parameters(shape) + embeddings + norms)


def trainable(adapter: Adapter, shape: dict[str, Any]) -> int | None:
    """Trained parameters; None where the recipe alone does not tell."""
    if isinstance(adapter, Full):
        return None if adapter.freeze or adapter.unfreeze else parameters(shape)
    if not isinstance(adapter, Lora) or adapter.modules_to_save or adapter.rank_pattern:
        return None
    maps, excluded = linears(shape), adapter.exclude_modules or []
    if isinstance(excluded, str) or any("." in name for name in excluded):
        return None
    if adapter.target_modules != "all-linear":
        if not isinstance(adapter.target_modules, list):
            return None
        maps = {n: maps[n] for n in adapter.target_modules if n in maps}
    maps = {name: map for name, map in maps.items() if name not in excluded}
    magnitudes = sum(b for _, b in maps.values()) if adapter.use_dora else 0
    block = sum(adapter.r * (a + b) for a, b in maps.values()) + magnitudes
    chosen = adapter.layers_to_transform
    return int(block * (shape["num_hidden_layers"] if chosen is None else len(set(chosen))))


def teacher_bytes(recipe: Recipe) -> float | None:
    """Weights of the model that teaches; 0 where none does, or the base does itself; None where its size is not known."""
    teacher, task = teacher_of(recipe), recipe.task
    if teacher is None or not isinstance(task, Distil) or is_base(recipe):
        return 0.0
    shape = plain(teacher.shape) if teacher.shape else local_shape(teacher.id)
    if shape is None:
        return None
    saved = {Held.none: 0.0, Held.nf4: BYTES[teacher.dtype] - DOUBLE_QUANTISED, Held.int8: BYTES[teacher.dtype] - QUANTISED[Quant.int8]}
    return parameters(shape) * BYTES[teacher.dtype] - linear_parameters(shape) * saved[task.teacher_quant]
