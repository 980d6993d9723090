"""Prepared rows as batches: laid end to end (`flat`), or padded (`padded`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase

from tuner.model import packed

Item = dict[str, Any]


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
