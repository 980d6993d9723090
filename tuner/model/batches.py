"""Prepared rows as batches: laid end to end (`flat`), or padded (`padded`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from tuner.model import packed

Item = dict[str, Any]
BESIDE = ("labels", "reference", "liked", "filler")  # what of a batch no model takes


def flat(items: list[Item], *, total: int | None = None) -> dict[str, Any]:
    """Rows end to end, filled up to `total` tokens; `filler`: tokens that stand for nothing."""
    rows = [row for item in items for row in item["rows"]]
    batch = packed.flatten(rows, total=total)
    taught = sum(len(row["input_ids"]) for row in rows if not row.get("blank"))
    return batch | {"filler": batch["input_ids"].numel() - taught}


def padded(tokenizer: PreTrainedTokenizerBase) -> Callable[[list[Item]], dict[str, Any]]:
    """Rows below each other, padded to the longest; `filler` as in `flat`."""
    pad = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=packed.IGNORE)

    def collate(items: list[Item]) -> dict[str, Any]:
        rows = [row for item in items for row in item["rows"]]
        filler = sum(len(row["input_ids"]) for row in rows if row.get("blank"))
        return {"filler": filler} | dict(
            pad(
                [
                    {
                        "input_ids": row["input_ids"],
                        "labels": [packed.IGNORE, *row["labels"][1:]],
                        "attention_mask": [1] * len(row["input_ids"]),
                    }
                    for row in rows
                ]
            )
        )

    return collate


def supervised(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor, int]:
    """Of a batch from `flat` or `padded`, of its N trained tokens: logits [N, V], ids [N], whose conversation's they are [N], of how many.

    Of rows laid end to end only these pass the head.
    """
    labels, inputs = batch["labels"], {name: value for name, value in batch.items() if name not in BESIDE}
    if "cu_seq_lens_q" in batch:
        places = (labels[0, 1:] != packed.IGNORE).nonzero().squeeze(1)
        # An empty mask stops Transformers from building one of all pairs of tokens, which nobody reads.
        inputs["attention_mask"] = torch.empty(1, 1, 0, 0, dtype=torch.bool, device=labels.device)
        logits = model(**inputs, logits_to_keep=places, use_cache=False).logits[0]
        owner = torch.bucketize(places, batch["cu_seq_lens_q"][1:].long(), right=True)
        return logits, labels[0, 1:][places], owner, len(batch["cu_seq_lens_q"]) - 1
    logits = model(**inputs, use_cache=False).logits[:, -labels.shape[1] : -1]  # virtual tokens stand before the text
    there = labels[:, 1:] != packed.IGNORE
    return logits[there], labels[:, 1:][there], there.nonzero()[:, 0], len(labels)
