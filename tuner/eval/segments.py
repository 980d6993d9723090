"""Predicted masks, and what they are worth: `segment(model, rows, objective, …)` -> classes and loss of each image; formulas of counts.

The IoU of a class is tp / (tp + fp + fn) over the pixels of all images (PASCAL VOC's); their mean is over classes that are there, or were
said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F

from tuner.data.labels import NOTHING
from tuner.data.segments import MaskRow
from tuner.eval.scores import Formula, Sums, mean_loss
from tuner.model.objectives import Objective
from tuner.model.segments import enlarged


@torch.no_grad()
def segment(
    model: nn.Module, rows: Sequence[MaskRow], objective: Objective, *, at_once: int, tick: Callable[[int], None] = lambda done: None
) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Of each image the class of every pixel [height, width], and the loss summed over its labelled ones."""
    device = next(model.parameters()).device
    for first in range(0, len(rows), at_once):
        batch = objective.collate([{"rows": [row.item]} for row in rows[first : first + at_once]])
        batch = {name: value.to(device) for name, value in batch.items() if name != "filler"}
        logits, labels = objective.outputs(model, batch), batch["labels"]
        for place in range(len(logits)):  # one by one: of many classes they are large
            large = enlarged(logits[place : place + 1], labels.shape[-2:])
            loss = F.cross_entropy(large, labels[place : place + 1], ignore_index=NOTHING, reduction="sum")
            yield large[0].argmax(0).to(torch.uint8).cpu().numpy(), float(loss)
        tick(first + len(logits))


def counted(said: NDArray[np.uint8], true: NDArray[np.uint8], names: Sequence[str]) -> dict[str, float]:
    """`right`, and of each class `tp`, `fp`, `fn`: pixels of one image, of those that are labelled."""
    there, classes = true != NOTHING, len(names)
    pairs = np.bincount(true[there].astype(np.int64) * classes + said[there], minlength=classes * classes).reshape(classes, classes)
    right = np.diag(pairs)
    found: dict[str, float] = {"right": float(right.sum())}
    for number, name in enumerate(names):
        tp, fp, fn = right[number], pairs[:, number].sum() - right[number], pairs[number].sum() - right[number]
        found |= {f"{key}/{name}": float(count) for key, count in (("tp", tp), ("fp", fp), ("fn", fn)) if count}
    return found


def formulas(names: Sequence[str], there: Sequence[str]) -> dict[str, Formula]:
    """Mean IoU, pixel accuracy, loss, and the IoU of each class that is `there` in the held-out masks."""
    found: dict[str, Formula] = {"mean_iou": _mean(names), "pixel_accuracy": _accuracy, "loss": mean_loss}
    return found | {f"iou/{name}": _of(name) for name in there}


def _parts(sums: Sums, name: str) -> tuple[Any, Any]:
    """(pixels that are the class and are said to be, those that are one of the two)."""
    tp, fp, fn = (np.asarray(sums.get(f"{key}/{name}", 0.0), float) for key in ("tp", "fp", "fn"))
    return tp, tp + fp + fn


def _ratio(part: Any, whole: Any) -> Any:
    return np.where(whole > 0, part / np.where(whole > 0, whole, 1.0), 0.0)


def _of(name: str) -> Formula:
    return lambda sums: _ratio(*_parts(sums, name))


def _mean(names: Sequence[str]) -> Formula:
    def mean(sums: Sums) -> Any:
        both = [_parts(sums, name) for name in names]
        return _ratio(sum(_ratio(*one) for one in both), sum(np.asarray(whole > 0, float) for _, whole in both))

    return mean


def _accuracy(sums: Sums) -> Any:
    return _ratio(np.asarray(sums["right"], float), np.asarray(sums["tokens"], float))
