"""What is learned of images: `of_images(problem, processor, outputs=2, shape=(3, 224, 224))` -> an Objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tuner.model.objectives import Batch, Item, Objective, losing
from tuner.schema.task import Problem


def of_images(problem: Problem, processor: Any, *, outputs: int, shape: Sequence[int]) -> Objective:
    """Classes of images, or a number for each. `shape`: channels, height and width."""
    learned = losing(problem, outputs=outputs)
    blank = [{"pixels": np.zeros(shape, np.uint8), "labels": learned.blank[0]["labels"], "blank": True}]
    return replace(learned, collate=partial(collate, processor), blank=blank)


def collate(processor: Any, items: list[Item]) -> Batch:
    """Images below each other, as the model takes them."""
    rows = [row for item in items for row in item["rows"]]
    pixels = torch.from_numpy(np.stack([row["pixels"] for row in rows]))
    filler = sum(bool(row.get("blank")) for row in rows)
    return {"pixel_values": finished(pixels, processor), "labels": torch.tensor([row["labels"] for row in rows]), "filler": filler}


def finished(pixels: Tensor, processor: Any) -> Tensor:
    """Pixels rescaled and normalised, as the processor would: [rows, channels, height, width]."""
    values = pixels.float()
    if processor.do_rescale:
        values = values * processor.rescale_factor
    if processor.do_normalize:
        mean, spread = (torch.tensor(each, dtype=torch.float32).reshape(-1, 1, 1) for each in (processor.image_mean, processor.image_std))
        values = (values - mean) / spread
    return values
