"""Rows as batches: laid end to end (`flat`), padded (`padded`), or out of a stream (`StreamBatches`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import DataCollatorForSeq2Seq, PreTrainedTokenizerBase, Trainer

from tuner.data.stream import Stream
from tuner.errors import Problem, TuneError
from tuner.model import packed

Item = dict[str, Any]


class StreamBatches:
    """Micro-batches of a stream without end. Its own loader: Accelerate's would have every rank make all samples and throw most away."""

    def __init__(self, trainer: Trainer, rows: Stream) -> None:
        self.trainer, self.rows = trainer, rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        trainer, args = self.trainer, self.trainer.args
        world = args.world_size
        done = trainer.state.global_step * args.per_device_train_batch_size * args.gradient_accumulation_steps * world
        loader = DataLoader(
            self.rows.at(done, rank=args.process_index, world=world),
            batch_size=None,
            collate_fn=_as_it_is,
            num_workers=args.dataloader_num_workers,
            multiprocessing_context="spawn" if args.dataloader_num_workers else None,  # threads run here: nothing may fork
            generator=torch.Generator(),  # else it would draw its seed from training's, which a resumed run has not done
        )
        for items in loader:
            if isinstance(items[0], Problem):
                raise TuneError(problems=items)
            yield trainer.data_collator(items)


def _as_it_is(items: Any) -> Any:
    return items


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
