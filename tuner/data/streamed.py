"""Conversations of a stream: `stream(run, tokenizer, task, micro=8)` -> a Stream of conversations, of pieces or packs of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.blocks import Blocks, blocks, flow
from tuner.data.chat import TokenRow, tokenize
from tuner.data.conversations import conversations, talks
from tuner.data.fast import SAMPLE, encoder_for
from tuner.data.forms import Forms
from tuner.data.journal import Rest
from tuner.data.load import Rows
from tuner.data.masks import Masker
from tuner.data.splits import split
from tuner.data.store import as_labels, best_fit
from tuner.data.stream import Stream
from tuner.data.tokens import Encoder
from tuner.data.turns import Example
from tuner.schema.data import Overlong
from tuner.schema.task import Sft


@dataclass
class Maker:
    """What `stream.Stream` makes of blocks of rows: conversations, tokenized when wanted; all at once to be packed or cut up."""

    tokenizer: PreTrainedTokenizerBase
    task: Sft
    blocks: Blocks
    sample: list[Example]

    def __getstate__(self) -> dict[str, Any]:
        """A worker finds the forms and the encoder itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("forms", "encoder")}

    @cached_property
    def forms(self) -> Forms:
        """The template's forms, found once in a process."""
        return Forms(Masker(self.tokenizer))

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer at work."""
        return encoder_for(self.sample, self.tokenizer, self.task, choice=self.blocks.data.tokenizer, tell=lambda _: None)

    def samples(self, rows: Rows, part: int, key: str, rest: Rest) -> tuple[Sequence[Any], Rest]:
        """Conversations; or packs, or pieces of them, of token rows. Nothing is left to the next block."""
        return self._samples(self.blocks.cleaned(rows, part, key), part, key), rest

    def _samples(self, rows: Rows, part: int, key: str) -> Sequence[Any]:
        if not rows:
            return []
        one, overlong = self.blocks.parts[part], self.blocks.data.overlong
        found = talks(rows, (one.name, one.data), self.blocks.layouts[part])
        rows.skipped += found.misfits
        if not self.task.packing and overlong is Overlong.truncate:
            return found.examples
        tokens = [row for row in self._tokens(found.examples) if row.supervised]
        if overlong is Overlong.drop:
            tokens = [row for row in tokens if not row.truncated]
        if not self.task.packing:
            return [[row] for row in tokens]
        packs = best_fit([len(row.ids) for row in tokens], self.task.max_length)
        random.Random(f"{key}:packs").shuffle(packs)
        return [[tokens[i] for i in pack] for pack in packs]

    def items(self, samples: list[Any]) -> list[dict[str, Any]]:
        """As `store.TokenRows` gives them."""
        found = [[row] for row in self._tokens(samples)] if samples and isinstance(samples[0], dict) else samples
        return [{"rows": [as_labels(row.ids, row.trained) for row in rows]} for rows in found]

    def _tokens(self, examples: list[Example]) -> Iterator[TokenRow]:
        pieces = self.blocks.data.overlong is Overlong.split
        return tokenize(examples, self.tokenizer, self.task, encoder=self.encoder, forms=self.forms, pieces=pieces)


def stream(run: Run, tokenizer: PreTrainedTokenizerBase, task: Sft, *, micro: int) -> Stream:
    """The training rows of a run whose data is streamed."""
    rows = split(run)[0]
    sample = conversations(run, rows)
    maker = Maker(
        tokenizer=tokenizer,
        task=task,
        blocks=blocks(run, rows, [source.layout for source in sample]),
        sample=[example for source in sample for example in source.examples[:SAMPLE]],
    )
    return flow(run, maker, micro=micro)
