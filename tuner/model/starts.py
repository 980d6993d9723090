"""Where LoRA's matrices start when not at nothing: `start(model, adapter, plain=…, rows=…, beside=folder)`.

PiSSA, OLoRA and LoftQ start from a part of the weights and take that part out of the base (LoftQ: quantising did). What is trained then
belongs to a base that nobody has. So the starting point is kept `beside` while training, and the result is saved as what was learned since:
an adapter of twice the rank, for the unchanged base.
"""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import nn

from tuner.errors import TuneError
from tuner.schema.adapter import MOVES_THE_BASE, Init, Lora

LOOKS_AT_WEIGHTS = (*MOVES_THE_BASE, Init.eva)
STARTED_FROM = "initial"  # a folder of the run; PEFT names an adapter by it
BATCH_ROWS = 4


def starting_point(adapter: Lora) -> bool | str:
    """What PEFT is told when it makes the matrices. LoftQ's are set afterwards, from weights that were not quantised."""
    if adapter.init_lora_weights in (Init.default, Init.loftq):
        return True
    return adapter.init_lora_weights.value


def can_start(model: PeftModel, adapter: Lora) -> None:
    """Raises TuneError (code 2) where a rank is above what a weight has, or a weight is the embedding too, which must not move."""
    shared = cast(Any, model.get_base_model()).get_input_embeddings()
    key, kind = "adapter.init_lora_weights", adapter.init_lora_weights
    layers = {name: layer for name, layer in model.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    parts = {name: min(layer.in_features or 1, layer.out_features or 1) for name, layer in layers.items()}
    small = min(parts, key=lambda name: parts[name] - layers[name].r["default"])
    if layers[small].r["default"] > parts[small]:
        what = f"`{kind}` starts from {layers[small].r['default']} parts of a weight, and `{small}` has {parts[small]}"
        raise TuneError(what, "adapter.r", f"lower it to {parts[small]}, leave that module out, or start at nothing: `adapter=lora`")
    for name, layer in layers.items():
        if kind in MOVES_THE_BASE and getattr(layer.get_base_layer(), "weight", None) is shared.weight:
            what = f"`{kind}` takes a part out of `{name}`, which is the embedding as well"
            raise TuneError(what, key, "leave it out of `adapter.target_modules`")


def start(model: PeftModel, adapter: Lora, *, plain: Callable[[], nn.Module], rows: Callable[[], Any], beside: Path) -> None:
    """Set the matrices where their start needs more than the module that they are for.

    `plain` gives the base as it is when it is not quantised, for LoftQ; `rows` the prepared ones, for EVA.
    """
    if adapter.init_lora_weights is Init.eva:
        initialize_lora_eva_weights(model, _Batches(rows(), model), show_progress_bar=False)
    if adapter.init_lora_weights is Init.loftq:
        _loftq(model, plain())
    if adapter.init_lora_weights in MOVES_THE_BASE:
        model.save_pretrained(str(beside / STARTED_FROM))


@torch.no_grad()
def _loftq(model: PeftModel, plain: nn.Module) -> None:
    """What quantising lost of each weight, in as many ranks as there are (https://arxiv.org/abs/2310.08659, one iteration).

    PEFT's `replace_lora_weights_loftq` is for CUDA and XPU alone.
    """
    for name, layer in model.get_base_model().named_modules():
        if not isinstance(layer, LoraLayer):
            continue
        first, second = (cast(Any, matrices)["default"].weight for matrices in (layer.lora_A, layer.lora_B))
        rank, scale = layer.r["default"], layer.scaling["default"]
        weight = dequantize_module_weight(layer.get_base_layer()).float()
        lost = cast(Any, plain.get_submodule(name)).weight.float().to(weight.device) - weight
        left, sizes, right = torch.linalg.svd(lost, full_matrices=False)
        root = (sizes[:rank] / scale).sqrt()
        first.copy_(root[:, None] * right[:rank])
        second.copy_(left[:, :rank] * root)


def save(model: Any, adapter: Any, folder: Path, *, beside: Path) -> None:
    """Write a model's result; where the base was moved, for the base as it was."""
    if not (isinstance(adapter, Lora) and adapter.init_lora_weights in MOVES_THE_BASE):
        # Rows of new tokens are saved as such: PEFT would add the whole embedding when it has grown.
        alone = {"save_embedding_layers": False} if isinstance(model, PeftModel) else {}
        model.save_pretrained(str(folder), **alone)
        return
    with warnings.catch_warnings():  # PEFT warns of a second adapter, which it loads itself to tell what was learned since
        warnings.filterwarnings("ignore", message=".*changes the base weights", category=UserWarning)
        model.save_pretrained(str(folder), path_initial_model_for_weight_conversion=str(beside / STARTED_FROM))
    shutil.rmtree(beside / STARTED_FROM)


class _Batches:
    """Prepared rows as padded batches, as often as they are asked for."""

    def __init__(self, rows: Any, model: PeftModel) -> None:
        self.rows, self.device = rows, model.device

    def __len__(self) -> int:
        return -(-len(self.rows.ends) // BATCH_ROWS)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for first in range(0, len(self.rows.ends), BATCH_ROWS):
            chosen = [self.rows.row(i)["input_ids"] for i in range(first, min(first + BATCH_ROWS, len(self.rows.ends)))]
            width = max(map(len, chosen))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in chosen])
            mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in chosen])
            yield {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
