"""Peak memory of a training, worked out from dimensions alone: `need(recipe, shape, Load(rows=4, length=512))`. No torch.

Every factor below counts tensors that are kept for the backward pass, as Transformers' Llama blocks, PEFT and `model/packed.py`
keep them under autocast; `scripts/bench memory` compares the sum with measured peaks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.dimensions import BYTES, DOUBLE_QUANTISED, QUANTISED, linear_parameters, parameters, teacher_bytes, trainable, widths
from tuner.schema.adapter import Full, Lora, QLora
from tuner.schema.distil import Distil
from tuner.schema.hardware import DeepSpeed, Fsdp, Hardware
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Choice, Optim, Precision

WHOLE = (Precision.fp32, Precision.tf32)  # without autocast: what is kept of each product has 4 bytes
CHUNK = {True: 2**24, False: 2**27}  # logits that the padding-free head holds at once, on a CPU and not (kernels.MAX_LOGITS)
HOST = 2**62  # as many parts as leave nothing on the device
PROCESS_BYTES = {True: 0.63e9, False: 0.0}  # CPU: the interpreter with its libraries; a GPU allocator counts tensors alone
# Resident memory on a CPU exceeds the tensors: measured (docs/training.md), by a share for holes that malloc cannot give back, and by so
# many blocks' activations for what one operation after another needs for itself. A GPU's allocator is asked for tensors alone.
HOLES = {True: 1.22, False: 1.0}
QUANTISED_HOLES = {True: 1.61, False: 1.0}  # weights are unpacked between what is kept
WORKSPACE_BLOCKS = 9.0
# What a trained parameter costs beside itself, in fp32: the optimizer's moments.
STATES = {
    Optim.adamw_torch: 2.0,
    Optim.adamw_torch_fused: 2.0,
    Optim.adamw_bnb_8bit: 0.5,
    Optim.paged_adamw_32bit: 2.0,
    Optim.paged_adamw_8bit: 0.5,
    Optim.adafactor: 0.01,
    Optim.lion_32bit: 1.0,
    Optim.lion_8bit: 0.25,
    Optim.paged_lion_8bit: 0.25,
    Optim.muon: 1.0,
    Optim.sgd: 0.0,
    Optim.schedule_free_adamw: 2.0,
    Optim.schedule_free_sgd: 1.0,
    Optim.galore_adamw: 0.5,  # by the rank; less for large matrices
    Optim.galore_adafactor: 0.5,
    Optim.apollo_adamw: 0.5,
}


@dataclass(frozen=True, kw_only=True)
class Cuts:
    """Over how many devices weights, gradients, optimizer states and the tokens of a row are cut."""

    weights: int = 1
    gradients: int = 1
    optimizer: int = 1
    tokens: int = 1
    gathered: bool = False
    """Whether a block's weights are whole only while it computes."""


def cuts(hardware: Hardware, processes: int) -> Cuts:
    """What a strategy cuts over so many processes; what is offloaded to the host is cut to nothing."""
    if isinstance(hardware, Fsdp):
        shards = HOST if hardware.cpu_offload else max(1, processes // hardware.dp_replicate_size)
        whole = not hardware.reshard_after_forward
        return Cuts(weights=1 if whole else shards, gradients=shards, optimizer=shards, tokens=hardware.cp_size, gathered=not whole)
    if isinstance(hardware, DeepSpeed):
        stage, three = hardware.zero_stage, hardware.zero_stage == 3
        optimizer = HOST if hardware.offload_optimizer else processes
        weights = (HOST if hardware.offload_param else processes) if three else 1
        return Cuts(weights=weights, gradients=processes if stage > 1 else 1, optimizer=optimizer, tokens=hardware.sp_size, gathered=three)
    return Cuts()


@dataclass(frozen=True, kw_only=True)
class Load:
    """What passes the model at once: rows of so many tokens, the share of them that is trained; and what is cut over devices."""

    rows: int
    length: float
    labelled: float = 1.0
    cpu: bool = True
    cuts: Cuts = Cuts()


@dataclass(frozen=True, kw_only=True)
class Need:
    """Bytes on one device by part. `total` is the peak: gradients and activations are not all there at the same time."""

    process: int
    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    copies: int = 0
    """What is written beside the training (`hardware.async_save`), in the memory of a CPU."""

    @property
    def total(self) -> int:
        """The peak: at the start of the backward pass, or when the optimizer steps."""
        return self.process + self.weights + self.optimizer + self.copies + max(self.activations + self.logits, self.gradients)


def need(recipe: Recipe, shape: dict[str, Any], load: Load) -> Need | None:
    """Bytes by part; None where the adapter's size is not known from the recipe."""
    trained = trainable(recipe.adapter, shape)
    if trained is None:
        return None
    full, width = isinstance(recipe.adapter, Full), BYTES[recipe.model.dtype]
    weights = parameters(shape) * (4.0 if full else width) + (0 if full else 4.0 * trained)
    if isinstance(recipe.adapter, QLora):
        each = QUANTISED[recipe.adapter.quant]
        each = DOUBLE_QUANTISED if recipe.adapter.double_quant and each < 1 else each
        weights -= linear_parameters(shape) * (width - each)
    cut = load.cuts
    gathered = _gathered(recipe, shape) if cut.gathered and cut.weights > 1 else 0.0
    states = STATES[recipe.trainer.optim] + (recipe.trainer.ema_decay is not None)
    behind = load.cpu and recipe.hardware.async_save and bool(recipe.trainer.save_steps or recipe.trainer.load_best_model_at_end)
    return Need(
        process=round(PROCESS_BYTES[load.cpu]),
        weights=round(weights / cut.weights + gathered + (teacher_bytes(recipe) or 0.0)),  # the teacher is whole on each device
        gradients=round(4.0 * trained / cut.gradients),
        optimizer=round(4.0 * trained * states / cut.optimizer),
        copies=round(4.0 * trained * (1 + states)) if behind else 0,
        activations=round(_activations(recipe, shape, load)),
        logits=round(_logits(recipe, shape, load)),
    )


def _gathered(recipe: Recipe, shape: dict[str, Any]) -> float:
    """Weights that are whole at once though cut over devices: two blocks' (one computes, the next is fetched), embedding and head."""
    width = 4.0 if recipe.trainer.precision in WHOLE else 2.0
    block = linear_parameters(shape) / shape["num_hidden_layers"]
    ends = shape["vocab_size"] * shape["hidden_size"] * (1 if shape["tie_word_embeddings"] else 2)
    return float(width * (2 * block + ends))


def _activations(recipe: Recipe, shape: dict[str, Any], load: Load) -> float:
    """What the blocks keep for the backward pass; with recomputation one block's, and each block's input."""
    hidden, inner, blocks = shape["hidden_size"], shape["intermediate_size"], shape["num_hidden_layers"]
    queries, keys = widths(shape)
    full = isinstance(recipe.adapter, Full)
    half = 4.0 if recipe.trainer.precision in WHOLE else 2.0
    # Two norms: the fp32 input, the output that the linear maps keep; a trained norm keeps its normalised fp32 input as well.
    norms = 2 * hidden * (4 + half + (4 if full else 0))
    # Queries, attention's output and its copy for the next map; keys and values, repeated for each query head when padded.
    attention = half * (3 * queries + 2 * (queries if recipe.trainer.padding_free is Choice.never else keys))
    mlp = half * 4 * inner  # gate, silu(gate), up, their product
    block = norms + attention + mlp
    # Outputs of each adapter's first matrix, seven a block.
    block += half * 7 * recipe.adapter.r if isinstance(recipe.adapter, Lora) else 0.0
    tokens = load.rows * load.length / load.cuts.tokens
    kept = hidden * (4.0 if full else half) * blocks + block if recipe.trainer.activation_checkpointing else block * blocks
    holes = (QUANTISED_HOLES if isinstance(recipe.adapter, QLora) else HOLES)[load.cpu]
    # On a GPU the backward pass through a block needs what the head has let go of by then.
    workspace = tokens * block * WORKSPACE_BLOCKS if load.cpu else max(0.0, tokens * block - _logits(recipe, shape, load))
    kept = tokens * kept * holes + workspace
    # Autocast casts fp32 weights and keeps the casts until the backward pass.
    return float(kept + (half * parameters(shape) if full and half < 4 and not load.cuts.gathered else 0.0))


def _logits(recipe: Recipe, shape: dict[str, Any], load: Load) -> float:
    """Padded: all positions, in bf16, and three times in fp32 on the way back. Padding-free: a chunk of the trained ones, and no more."""
    vocabulary, hidden, tokens = shape["vocab_size"], shape["hidden_size"], load.rows * load.length / load.cuts.tokens
    labelled = tokens * load.labelled
    if isinstance(recipe.task, Distil):  # of both models and a gradient, and what a chunk compares
        return float(labelled * vocabulary * (12.0 if recipe.trainer.precision in WHOLE else 6.0) + CHUNK[load.cpu] * 24.0)
    if recipe.trainer.padding_free is Choice.never:
        return float(tokens * vocabulary * 14.0)
    head = vocabulary * hidden * 6.0 if isinstance(recipe.adapter, Full) else 0.0  # its own gradient, in fp32 and as it is kept
    return float(min(labelled * vocabulary, CHUNK[load.cpu]) * 10.0 + labelled * hidden * 4.0 + head)


def edits(recipe: Recipe, shape: dict[str, Any], load: Load) -> list[tuple[str, int]]:
    """Changes that save memory, with the bytes that each saves, the greatest first."""
    now = need(recipe, shape, load)
    found = []
    for text, changed, then in _changes(recipe, load) if now else ():
        after = need(changed, shape, then)
        if now and after and now.total - after.total > 0:
            found.append((text, now.total - after.total))
    return sorted(found, key=lambda edit: -edit[1])


def _changes(recipe: Recipe, load: Load) -> Iterator[tuple[str, Recipe, Load]]:
    trainer, adapter = recipe.trainer, recipe.adapter
    if not trainer.activation_checkpointing:
        yield "trainer.activation_checkpointing=true", with_trainer(recipe, activation_checkpointing=True), load
    if not isinstance(adapter, QLora):
        yield "adapter=qlora", dataclasses.replace(recipe, adapter=QLora()), load
    if recipe.hardware.async_save and isinstance(adapter, Full):
        yield (
            "hardware.async_save=false",
            dataclasses.replace(recipe, hardware=dataclasses.replace(recipe.hardware, async_save=False)),
            load,
        )
    length = max(8, int(load.length) // 2)
    yield f"task.max_length={length}", recipe, dataclasses.replace(load, length=length)
    if trainer.optim is Optim.adamw_torch:
        yield "trainer.optim=adamw_bnb_8bit", with_trainer(recipe, optim=Optim.adamw_bnb_8bit), load


def with_trainer(recipe: Recipe, **changed: Any) -> Recipe:
    """The recipe with other values in its trainer section."""
    return dataclasses.replace(recipe, trainer=dataclasses.replace(recipe.trainer, **changed))
