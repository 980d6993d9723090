"""Rows of a text that is read and one that is written: `texts_of({"source": "a b", "target": "c d"}, task)`, `coded(…)` -> WrittenRow.

Rows on disk: `ids.npy` int32 [tokens], each source with its target behind it; `source_ends.npy` and `ends.npy` say where those end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow
from tuner.data.turns import Example, Misfit
from tuner.errors import GATE, TuneError
from tuner.schema.seq2seq import Seq2Seq, Translate

BATCH = 1000


@dataclass(slots=True, kw_only=True)
class WrittenRow:
    """Token ids of a source and of its target, and which of the two was cut."""

    source: NDArray[np.int32]
    target: NDArray[np.int32]
    source_cut: bool = False
    target_cut: bool = False

    @property
    def as_one(self) -> TokenRow:
        """Source and target one after the other, of which the target is trained."""
        trained = np.arange(len(self.source) + len(self.target)) >= len(self.source)
        return TokenRow(ids=np.concatenate([self.source, self.target]), trained=trained, truncated=self.source_cut or self.target_cut)


def texts_of(example: Example, task: Seq2Seq) -> tuple[str, str]:
    """What is read and what is written. Raises Misfit where a row has not one of each."""
    if "texts" in example:
        source, target = _languages(example["texts"], task)
    elif "messages" in example:
        source, target = _turns(example["messages"])
    else:
        source, target = example["source"], example["target"]
    if not source.strip() or not target.strip():
        raise Misfit("the source is empty" if not source.strip() else "the target is empty")
    return source, target


def _languages(texts: dict[str, str], task: Seq2Seq) -> tuple[str, str]:
    source = task.source_lang if isinstance(task, Translate) else None
    target = task.target_lang if isinstance(task, Translate) else None
    if lacking := [name for name in (source, target) if name is not None and name not in texts]:
        raise Misfit(f"`translation` has no `{lacking[0]}`, but {sorted(texts)}: see `task.source_lang` and `task.target_lang`")
    if (source is None or target is None) and len(texts) > 2:
        raise Misfit(f"`translation` has {sorted(texts)}: name two with `task: translate`, `task.source_lang` and `task.target_lang`")
    source = source or next(name for name in texts if name != target)
    return texts[source], texts[target or next(name for name in texts if name != source)]


def _turns(messages: list[dict[str, Any]]) -> tuple[str, str]:
    roles = [m["role"] for m in messages]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]) or not all(isinstance(m["content"], str) for m in messages):
        raise Misfit(f"one text and one answer are learned, and this conversation has the turns {roles}")
    return "\n".join(m["content"] for m in messages[:-1]), messages[-1]["content"]


def coded(
    texts: Sequence[tuple[str, str]],
    tokenizer: PreTrainedTokenizerBase,
    task: Seq2Seq,
    *,
    tick: Callable[[int], None] = lambda done: None,
) -> Iterator[WrittenRow]:
    """Sources behind their prefix, and targets, each cut to its length. A target that was cut has no end that could be learned."""
    for first in range(0, len(texts), BATCH):
        batch = texts[first : first + BATCH]
        sources = tokenizer([task.prefix + source for source, _ in batch], truncation=True, max_length=task.max_length).encodings
        targets = tokenizer(text_target=[target for _, target in batch], truncation=True, max_length=task.max_target_length).encodings
        for source, target in zip(sources, targets, strict=True):
            ids, cut = target.ids, bool(target.overflowing)
            if cut and ids[-1] == tokenizer.eos_token_id:
                ids = ids[:-1]
            yield WrittenRow(
                source=np.asarray(source.ids, np.int32),
                target=np.asarray(ids, np.int32),
                source_cut=bool(source.overflowing),
                target_cut=cut,
            )
        tick(min(first + BATCH, len(texts)))


def gate(rows: Sequence[WrittenRow], found: dict[str, Any], task: Seq2Seq) -> None:
    """Raises TuneError (code 3) where no row is left, or nowhere an end is learned."""
    if not rows:
        what = f"all {found['rows_dropped']} rows are too long and dropped; the first: {found['first']}"
        raise TuneError(what, "target audit", "raise `task.max_length`, or use `data.overlong=cut`", code=GATE)
    if all(row.target_cut for row in rows):
        what = f"every target is longer than task.max_target_length ({task.max_target_length} tokens): the model would not learn to end"
        raise TuneError(what, "target audit", "raise `task.max_target_length`", code=GATE)
    if not found["end_of_turn_trained"]:
        what = f"the tokenizer puts no end behind a target ({found['end_of_turn'] or 'it has none'}): the model would not learn to end"
        raise TuneError(what, "target audit", "use the tokenizer that this model was trained with", code=GATE)


def write_written(folder: Path, rows: Sequence[WrittenRow]) -> None:
    """Write rows; the caller marks the folder as done."""
    folder.mkdir(parents=True, exist_ok=True)
    ends = np.cumsum([len(row.source) + len(row.target) for row in rows], dtype=np.int64)
    np.save(folder / "ids.npy", np.concatenate([part for row in rows for part in (row.source, row.target)]))
    np.save(folder / "source_ends.npy", ends - np.asarray([len(row.target) for row in rows]))
    np.save(folder / "ends.npy", ends)


class WrittenRows(Dataset[dict[str, Any]]):
    """Prepared rows. An item holds one `{"input_ids", "labels"}`: source and target."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.source_ends = np.load(folder / "source_ends.npy")
        self.ends = np.load(folder / "ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"rows": [as_item(self.row(index))]}

    def row(self, index: int) -> WrittenRow:
        """One row."""
        first, middle, last = int(self.ends[index - 1]) if index else 0, int(self.source_ends[index]), int(self.ends[index])
        return WrittenRow(source=self.ids[first:middle], target=self.ids[middle:last])

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row, source and target [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends, prepend=0)
        return found


def as_item(row: WrittenRow) -> dict[str, Any]:
    """A row as a trainer takes it."""
    return {"input_ids": row.source.tolist(), "labels": row.target.tolist()}
