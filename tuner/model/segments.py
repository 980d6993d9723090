"""What is learned of images with masks: `of_masks(processor, shape=(3, 512, 512))` -> an Objective; `calibrate` and `spare` before it is.

Training has Transformers' own loss, auxiliary heads included; what is measured is the cross-entropy of the logits alone, in fp32. Both are
summed over labelled pixels. Batch norms keep their statistics: those of a micro-batch would make the training hang on how a batch is cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from tuner.data.labels import NOTHING
from tuner.model.objectives import Batch, Item, Objective
from tuner.model.pictures import finished

CALIBRATED, AT_ONCE = 32, 8  # images that new batch norms get their statistics from, and how many pass at once


def of_masks(processor: Any, *, shape: Sequence[int]) -> Objective:
    """Cross-entropy of each labelled pixel's class. `shape`: channels, height and width."""
    blank = [{"pixels": np.zeros(shape, np.uint8), "mask": np.full(shape[1:], NOTHING, np.uint8), "blank": True}]
    return Objective(collate=partial(_collate, processor), loss=_loss, count=_count, blank=blank, outputs=logits_of)


def _collate(processor: Any, items: list[Item]) -> Batch:
    rows = [row for item in items for row in item["rows"]]
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    labels = torch.from_numpy(np.stack([row["mask"] for row in rows])).long()
    return {"pixel_values": finished(pixels, processor), "labels": labels, "filler": sum(bool(row.get("blank")) for row in rows)}


def _count(batch: Batch) -> Tensor:
    labels: Tensor = batch["labels"]
    return (labels != NOTHING).sum()


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The model's outputs in fp32, as large as it gives them [rows, classes, height, width]."""
    logits: Tensor = model(pixel_values=batch["pixel_values"].to(next(model.parameters()).dtype)).logits
    return logits.float()


def enlarged(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Logits at a size [height, width], as Transformers enlarges them."""
    return F.interpolate(logits, size=tuple(size), mode="bilinear", align_corners=False)


def _loss(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    labels = batch["labels"]
    if not model.training:
        logits = enlarged(logits_of(model, batch), labels.shape[-2:])
        return F.cross_entropy(logits, labels, ignore_index=NOTHING, reduction="sum")
    _still(model)
    count = _count(batch)
    known = torch.where(count > 0, labels, 0)  # the mean over no pixel is not a number: then it is over all, and counts for nothing
    mean: Tensor = model(pixel_values=batch["pixel_values"].to(next(model.parameters()).dtype), labels=known).loss
    return mean.float() * count


def _still(model: nn.Module) -> None:
    """Batch norms that use what they have learned of images, not the batch that passes."""
    for module in _norms(model):
        module.eval()


def _norms(model: nn.Module) -> list[_BatchNorm]:
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def spare(model: nn.Module, rows: Any, objective: Objective, device: torch.device) -> int:
    """Leave out of training what the loss does not reach: BEiT's last layers, which come after those that its head looks at. How many.

    Several processes wait for a gradient of all that is trained.
    """
    before, batch = model.training, objective.collate([rows[0]])
    batch.pop("filler")
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model.train()
        torch.autograd.backward(objective.loss(model, {name: value.to(device) for name, value in batch.items()}, 0.0))
    model.train(before)
    spared = [parameter for parameter in model.parameters() if parameter.requires_grad and parameter.grad is None]
    for parameter in spared:
        parameter.requires_grad_(False)
    model.zero_grad()
    return len(spared)


@torch.no_grad()
def calibrate(model: nn.Module, rows: Any, objective: Objective, device: torch.device) -> bool:
    """Give batch norms that have seen nothing (those of a new head) the statistics of the first images; whether there were some.

    The same in each process, and whatever the batch.
    """
    new = [module for module in _norms(model) if module.running_mean is not None and not bool(module.running_mean.any())]
    if not new:
        return False
    before, momenta = model.training, [module.momentum for module in new]
    model.eval()
    for module in new:
        module.train()
        module.momentum = None  # the plain mean of all that passes
    last = min(CALIBRATED, len(rows))
    for first in range(0, last, AT_ONCE):
        batch = objective.collate([rows[index] for index in range(first, min(first + AT_ONCE, last))])
        logits_of(model, {"pixel_values": batch["pixel_values"].to(device)})
    for module, momentum in zip(new, momenta, strict=True):
        module.momentum = momentum
    model.train(before)
    return True
