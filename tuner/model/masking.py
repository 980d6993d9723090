"""Tokens hidden to be filled in: `of_masks(tokenizer, 0.15)` -> an Objective; `hidden(batch, …, fixed=True)` always hides the same ones.

BERT's way (https://arxiv.org/abs/1810.04805): of the chosen tokens 80 % become the mask, 10 % a token by chance, 10 % stay as they are. Of
each row the same share is chosen, at least one, so that how much is learned of a batch is known before it is drawn.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from tuner.data.store import IGNORE
from tuner.model.objectives import Batch, Objective, Padded, logits_of

MASKED, OTHER = 0.8, 0.9  # below the first a chosen token is masked, below the second it is another one


def chosen_of(labels: Tensor, share: float) -> Tensor:
    """How many tokens of each row are chosen [rows]: a share of those that could be."""
    there = (labels != IGNORE).sum(1)
    return torch.minimum(there, (there * share).round().clamp(min=1).long())


def hidden(batch: Batch, tokenizer: PreTrainedTokenizerBase, share: float, *, fixed: bool) -> Batch:
    """A batch with tokens hidden, and only those as labels. `fixed`: drawn of the row's own tokens, else by PyTorch's chance."""
    ids, labels = batch["input_ids"], batch["labels"]
    chance = _of_rows(ids, batch["attention_mask"]) if fixed else torch.rand(3, *ids.shape, device=ids.device)
    order = torch.where(labels != IGNORE, chance[0], 2.0).argsort(1).argsort(1)
    chosen = order < chosen_of(labels, share)[:, None]
    known = len(tokenizer)
    masked, other = chosen & (chance[1] < MASKED), chosen & (chance[1] >= MASKED) & (chance[1] < OTHER)
    written = torch.where(other, (chance[2] * known).long().clamp(max=known - 1), ids)
    mask = torch.full_like(ids, int(tokenizer.mask_token_id))
    return batch | {"input_ids": torch.where(masked, mask, written), "labels": torch.where(chosen, labels, IGNORE)}


def _of_rows(ids: Tensor, attention: Tensor) -> Tensor:
    """Numbers by chance that are the same for the same row, whatever stands beside it [3, rows, tokens]."""
    found = np.ones((3, *ids.shape), np.float32)
    for index, (row, length) in enumerate(zip(ids.cpu().numpy(), attention.sum(1).tolist(), strict=True)):
        seed = zlib.crc32(row[:length].astype(np.int32).tobytes())
        found[:, index, :length] = np.random.default_rng(seed).random((3, length), np.float32)
    return torch.from_numpy(found).to(ids.device)


def of_masks(tokenizer: PreTrainedTokenizerBase, share: float, *, lengths: Any = None) -> Objective:
    """Cross-entropy of what is hidden; anew each time in training, the same each time when measuring."""

    def loss(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        inputs = hidden(batch, tokenizer, share, fixed=not model.training)
        there = inputs["labels"] != IGNORE
        return F.cross_entropy(logits_of(model, inputs)[there], inputs["labels"][there], reduction="sum", label_smoothing=smoothing)

    blank = {"input_ids": [0], "token_type_ids": [0], "labels": [IGNORE], "blank": True}
    return Objective(
        collate=Padded(tokenizer), loss=loss, count=lambda batch: chosen_of(batch["labels"], share).sum(), blank=[blank], lengths=lengths
    )
