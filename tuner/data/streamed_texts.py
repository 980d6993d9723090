"""Plain texts of a stream, end to end: `stream(run, tokenizer, 1024, micro=8)` -> a Stream of rows of 1,024 tokens, each full.

A row goes on from one block of a source to the next, from one of its files to the next, and into the next epoch. The full rows of a block
are shuffled, unless `data.shuffle_rows` is 1.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data import labelled
from tuner.data.blocks import Blocks, blocks, flow
from tuner.data.documents import filled
from tuner.data.journal import Rest
from tuner.data.layout import read_all
from tuner.data.load import Rows
from tuner.data.splits import split
from tuner.data.store import as_labels
from tuner.data.stream import Stream


@dataclass
class Maker:
    """What `stream.Stream` makes of blocks of rows: full rows, each of the token ids of one or several texts."""

    tokenizer: PreTrainedTokenizerBase
    length: int
    blocks: Blocks

    def samples(self, rows: Rows, part: int, key: str, rest: Rest) -> tuple[Sequence[Rest], Rest]:
        """Full rows, in an order by chance; and the texts, or the parts of them, that fill none."""
        rows = self.blocks.cleaned(rows, part, key)
        if not rows:
            return [], rest
        _, examples, misfits = read_all(rows, self.blocks.parts[part].data, place=rows.place, known=self.blocks.layouts[part])
        rows.skipped += misfits
        found, rest = filled([example["text"] for example in examples], self.tokenizer, self.length, rest)
        if self.blocks.data.shuffle_rows > 1:  # else a batch would be one long text
            random.Random(f"{key}:rows").shuffle(found)
        return found, rest

    def items(self, samples: list[Rest]) -> list[dict[str, Any]]:
        """As `store.TokenRows` gives them."""
        return [{"rows": [as_labels(np.asarray(ids, np.int32), np.ones(len(ids), np.bool_)) for ids in row]} for row in samples]


def stream(run: Run, tokenizer: PreTrainedTokenizerBase, length: int, *, micro: int) -> Stream:
    """The training rows of a run whose data is streamed."""
    rows = split(run)[0]
    found = labelled.read(run, rows, ("text",))
    return flow(run, Maker(tokenizer, length, blocks(run, rows, found.layouts)), micro=micro)
