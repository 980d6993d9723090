"""Batches out of a stream (`StreamBatches`); those of prepared rows are made in `tuner/model/batches.py`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer

from tuner.data.stream import Stream
from tuner.errors import Problem, TuneError


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
