"""Conversations of a stream: `stream(run, tokenizer, task, micro=8)` -> a Stream of conversations, of pieces or packs of them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data import contamination
from tuner.data.chat import TokenRow, tokenize
from tuner.data.conversations import conversations, talks
from tuner.data.fast import SAMPLE, encoder_for
from tuner.data.forms import Forms
from tuner.data.heads import JOURNAL, heads
from tuner.data.layout import Layout
from tuner.data.load import Rows
from tuner.data.masks import Masker
from tuner.data.mix import Part
from tuner.data.splits import held_out, split
from tuner.data.store import as_labels, best_fit
from tuner.data.stream import Stream
from tuner.data.tokens import Encoder
from tuner.data.transform import apply
from tuner.data.turns import Example
from tuner.extensions import load_planned
from tuner.registry import load_extensions
from tuner.schema.data import Contamination, Data, Overlong
from tuner.schema.task import Sft
from tuner.schema.transforms.reading import steps


@dataclass
class Maker:
    """What `stream.Stream` makes of blocks of rows: conversations, tokenized when wanted; all at once to be packed or cut up."""

    tokenizer: PreTrainedTokenizerBase
    task: Sft
    data: Data
    parts: list[Part]
    layouts: list[Layout]
    held_out: Rows
    sample: list[Example]
    extensions: dict[str, str]

    def __getstate__(self) -> dict[str, Any]:
        """A worker finds the forms and the encoder itself."""
        return {name: value for name, value in self.__dict__.items() if name not in ("forms", "encoder")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A worker knows a person's own steps before it looks for any."""
        load_extensions()
        load_planned(state["extensions"])
        self.__dict__.update(state)

    @cached_property
    def forms(self) -> Forms:
        """The template's forms, found once in a process."""
        return Forms(Masker(self.tokenizer))

    @cached_property
    def encoder(self) -> Encoder:
        """The tokenizer at work."""
        return encoder_for(self.sample, self.tokenizer, self.task, choice=self.data.tokenizer, tell=lambda _: None)

    def samples(self, rows: Rows, part: int, key: str) -> Sequence[Any]:
        """Conversations; or packs, or pieces of them, of token rows."""
        rows, _ = apply(rows, self.parts[part].transforms, seed=f"{key}:own", block=True)
        rows, _ = apply(rows, steps(self.data.transforms), seed=key, block=True)
        if self.data.contamination is Contamination.drop and self.held_out:
            gone = set(contamination.overlap(rows, self.held_out).rows)
            rows = rows.take(i for i in range(len(rows)) if i not in gone)
        if not rows:
            return []
        one = self.parts[part]
        found = talks(rows, (one.name, one.data), self.layouts[part])
        rows.skipped += found.misfits
        if not self.task.packing and self.data.overlong is Overlong.truncate:
            return found.examples
        tokens = [row for row in self._tokens(found.examples) if row.supervised]
        if self.data.overlong is Overlong.drop:
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
        pieces = self.data.overlong is Overlong.split
        return tokenize(examples, self.tokenizer, self.task, encoder=self.encoder, forms=self.forms, pieces=pieces)


def stream(run: Run, tokenizer: PreTrainedTokenizerBase, task: Sft, *, micro: int) -> Stream:
    """The training rows of a run whose data is streamed."""
    found = heads(run)
    sample = conversations(run, split(run)[0])
    known = {source.name: source.layout for source in sample}
    maker = Maker(
        tokenizer=tokenizer,
        task=task,
        data=run.recipe.data,
        parts=[head.part for head in found],
        layouts=[known[head.part.name] for head in found],
        held_out=held_out(run),
        extensions=run.plan.extensions,
        sample=[example for source in sample for example in source.examples[:SAMPLE]],
    )
    feeds = [head.feed(number) for number, head in enumerate(found)]
    return Stream(feeds, maker, run.folder / JOURNAL, seed=run.recipe.seed, micro=micro)
