"""What is learned of recordings: `of_texts(hearing)` (what is said), `of_classes(hearing)` (what they are): Objectives for TokenTrainer."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tuner.data.audio import Hearing
from tuner.data.store import IGNORE
from tuner.model.objectives import Batch, Item, Objective, labelled


def of_texts(hearing: Hearing, *, lengths: Any = None) -> Objective:
    """Cross-entropy of the next token of a text, given the recording and the text before."""
    blank = {"features": np.zeros((1, _width(hearing)), np.float16), "input_ids": [0, 0], "labels": [IGNORE, IGNORE], "blank": True}
    return Objective(collate=_Batches(hearing), loss=_next_token, count=labelled, blank=[blank], lengths=lengths)


def of_classes(hearing: Hearing, *, lengths: Any = None) -> Objective:
    """Cross-entropy of a recording's class."""
    blank = {"features": np.zeros((1, _width(hearing)), np.float16), "input_ids": [0], "labels": IGNORE, "blank": True}
    return Objective(collate=_Batches(hearing), loss=_class, count=labelled, blank=[blank], lengths=lengths)


def _width(hearing: Hearing) -> int:
    return int(hearing(np.zeros(hearing.rate, np.float32)).shape[1])


class _Batches:
    """Recordings and texts below each other. `features` are under the name that the model gives them; `heard` only where it asks for it.

    Of texts `input_ids` is what the decoder is given, and `labels` what comes next.
    """

    def __init__(self, hearing: Hearing) -> None:
        self.hearing = hearing

    def __call__(self, items: list[Item]) -> Batch:
        rows = [row for item in items for row in item["rows"]]
        features, heard = self.hearing.padded([row["features"] for row in rows])
        texts = isinstance(rows[0]["labels"], list)
        given = [row["input_ids"][:-1] if texts else row["input_ids"] for row in rows]
        longest = max(map(len, given))
        batch: Batch = {
            "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids in given]),
            "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in given]),
            self.hearing.name: torch.from_numpy(features),
        }
        if self.hearing.masks:
            batch["heard"] = torch.from_numpy(heard)
        labels = [row["labels"] for row in rows]
        batch["labels"] = torch.tensor([ids[1:] + [IGNORE] * (longest - len(ids) + 1) for ids in labels] if texts else labels)
        return batch | {"filler": sum(len(ids) for ids, row in zip(given, rows, strict=True) if row.get("blank"))}


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The model's outputs in fp32: of texts [rows, tokens, vocabulary], of classes [rows, classes]."""
    dtype = next(model.parameters()).dtype
    inputs: dict[str, Any] = {name: batch[name].to(dtype) for name in ("input_features", "input_values") if name in batch}
    if batch["labels"].ndim == 2:
        inputs |= {"decoder_input_ids": batch["input_ids"], "use_cache": False}
    if "heard" in batch:
        inputs["attention_mask"] = batch["heard"]
    logits: Tensor = model(**inputs).logits
    return logits.float()


def _next_token(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    logits = logits_of(model, batch)
    return F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)


def _class(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    logits = logits_of(model, batch)
    return F.cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="sum", label_smoothing=smoothing)
