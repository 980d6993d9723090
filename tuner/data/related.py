"""Rows of texts that belong together, or how alike they are: `coded(found, tokenizer, 256)` -> RelatedRows, `TextRows(folder)` of them.

A row has two texts or more: what is asked, what is right, and what is not; or two texts with a number that says how alike they are. On disk
the texts of all rows lie one after the other: `ids.npy` int32 [tokens], `text_ends.npy` int64 [texts], `rows.npy` int64 [rows] (where each
row's texts end), `labels.npy` float32 [rows] (1 where none is given), `ends.npy` int64 [rows] (the sum of each row's longest texts).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow
from tuner.data.labels import finite
from tuner.data.shapes import Example
from tuner.data.turns import Misfit

BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class RelatedRow:
    """Token ids of each text of a row, how alike the first two are, and whether one was cut."""

    texts: list[NDArray[np.int32]]
    label: float
    truncated: bool

    @property
    def longest(self) -> int:
        """Tokens of the longest text."""
        return max(map(len, self.texts))


def texts_of(example: Example) -> list[str]:
    """The texts of a row: two of a pair; what is asked, what is right, what is not. Raises Misfit where one is missing."""
    if "anchor" in example:
        return [example["anchor"], example["positive"], *example["negatives"]]
    if "text_pair" not in example:
        raise Misfit("one text alone: two are needed to say how alike they are")
    return [str(example["text"]), str(example["text_pair"])]


def number(example: Example) -> float:
    """How alike the texts of a row are said to be. Raises Misfit where one of them is missing or empty, or nothing is said."""
    names = ("anchor", "positive") if "anchor" in example else ("first text", "second text")
    if empty := [name for name, text in zip(names, texts_of(example), strict=False) if not text.strip()]:
        raise Misfit(f"the {empty[0]} is empty")
    return likeness(example)


def likeness(example: Example) -> float:
    """How alike two texts are said to be; 1 of what belongs together. Raises Misfit for what is no number."""
    if "anchor" in example:
        return 1.0
    return finite(example.get("score", example.get("label")), "how alike two texts are is a number, and this")


def coded(
    examples: Sequence[Example],
    labels: Sequence[float],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    tick: Callable[[int], None] = lambda done: None,
) -> Iterator[RelatedRow]:
    """Each text cut to `max_length` tokens."""
    for first in range(0, len(examples), BATCH):
        rows = [texts_of(example) for example in examples[first : first + BATCH]]
        found = iter(tokenizer([text for row in rows for text in row], truncation=True, max_length=max_length).encodings)
        for index, row in enumerate(rows):
            mine = [next(found) for _ in row]
            texts = [np.asarray(encoding.ids, np.int32) for encoding in mine]
            yield RelatedRow(texts=texts, label=labels[first + index], truncated=any(e.overflowing for e in mine))
        tick(min(first + BATCH, len(examples)))


def write_related(folder: Path, rows: Sequence[RelatedRow]) -> None:
    """Write rows; the caller marks the folder as done."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [text for row in rows for text in row.texts]
    np.save(folder / "ids.npy", np.concatenate(texts))
    np.save(folder / "text_ends.npy", np.cumsum([len(text) for text in texts], dtype=np.int64))
    np.save(folder / "rows.npy", np.cumsum([len(row.texts) for row in rows], dtype=np.int64))
    np.save(folder / "labels.npy", np.asarray([row.label for row in rows], np.float32))
    np.save(folder / "ends.npy", np.cumsum([row.longest for row in rows], dtype=np.int64))


class TextRows(Dataset[dict[str, Any]]):
    """Rows of several texts. An item holds one `{"texts": [[…], […]], "labels": 1.0}`."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.text_ends = np.load(folder / "text_ends.npy")
        self.rows = np.load(folder / "rows.npy")
        self.labels = np.load(folder / "labels.npy")
        self.ends = np.load(folder / "ends.npy")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, last = int(self.rows[index - 1]) if index else 0, int(self.rows[index])
        bounds = [int(self.text_ends[first - 1]) if first else 0, *self.text_ends[first:last].tolist()]
        texts = [self.ids[a:b].tolist() for a, b in pairwise(bounds)]
        return {"rows": [{"texts": texts, "labels": float(self.labels[index])}]}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each row's longest text [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends, prepend=0)
        return found


def as_item(row: RelatedRow) -> dict[str, Any]:
    """A row as a trainer takes it."""
    return {"rows": [{"texts": [text.tolist() for text in row.texts], "labels": row.label}]}


def audit(rows: Sequence[RelatedRow], first: Example, *, scored: bool) -> dict[str, Any]:
    """Counts over all rows, as `audit.json` holds them: how alike texts are said to be, or how many are said to be wrong."""
    tokens = sum(len(text) for row in rows for text in row.texts)
    wrong = Counter(len(row.texts) - 2 for row in rows)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "supervised_tokens": tokens,
        "rows_fully_masked": 0,
        "rows_truncated": sum(row.truncated for row in rows),
        "labels": _histogram([row.label for row in rows]) if scored else {f"{n} negatives": count for n, count in sorted(wrong.items())},
        "labels_of": "row",
        "sample": segments(first),
    }


def _histogram(labels: Sequence[float]) -> dict[str, int]:
    """How many rows lie in each fifth of the range of likeness."""
    counts, edges = np.histogram(labels, bins=5)
    return {f"{a:.3g} to {b:.3g}": int(n) for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)}


def segments(example: Example) -> list[dict[str, Any]]:
    """The texts of a row, and what is said of them."""
    first, second, *others = texts_of(example)
    near = "is near" if "anchor" in example else f"is as near as {likeness(example):g} to"
    segments = [{"text": f"{first} ", "trained": False}, {"text": near, "trained": True}, {"text": f" {second}", "trained": False}]
    for other in others:
        segments += [{"text": " and far from ", "trained": True}, {"text": other, "trained": False}]
    return segments


def as_one(row: RelatedRow) -> Any:
    """All tokens of a row as one, for statistics."""
    ids = np.concatenate(row.texts)
    return TokenRow(ids=ids, trained=np.ones(len(ids), np.bool_), truncated=row.truncated)
