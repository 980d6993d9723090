"""Texts end to end: `pieces(texts, tokenizer, 1024)` fill rows of 1,024 tokens, `write(…)` keeps them, `filled(…)` goes on with some."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow
from tuner.data.store import write_rows

BATCH = 1000


def documents(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> Iterator[NDArray[np.int32]]:
    """Token ids of each text, with what the tokenizer puts around it, and its end of text behind."""
    end = tokenizer.eos_token_id
    for first in range(0, len(texts), BATCH):
        # Longer than the model reads is no fault here: texts are cut.
        for ids in tokenizer(list(texts[first : first + BATCH]), verbose=False)["input_ids"]:
            closed = ids if end is None or (ids and ids[-1] == end) else [*ids, end]
            yield np.asarray(closed, np.int32)


def pieces(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, *, alone: bool = False, begun: int = 0
) -> Iterator[TokenRow]:
    """Texts, cut where a row of `length` tokens is full and going on in the next; the first row has `begun` tokens already.

    `alone`: each text begins a row of its own.
    """
    for index, ids in enumerate(documents(texts, tokenizer)):
        at, number = 0, 0
        begun = 0 if alone else begun
        while at < len(ids):
            part = ids[at : at + length - begun]
            yield TokenRow(ids=part, trained=np.ones(len(part), np.bool_), truncated=False, piece=number, index=index)
            begun = (begun + len(part)) % length
            at, number = at + len(part), number + 1


def filled(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int, rest: list[list[int]]
) -> tuple[list[list[list[int]]], list[list[int]]]:
    """(rows of exactly `length` tokens, each the ids of its pieces; the pieces that fill none). The first row goes on from `rest`."""
    rows, row, begun = [], [*rest], sum(map(len, rest))
    for piece in pieces(texts, tokenizer, length, begun=begun):
        row.append(piece.ids.tolist())
        begun = (begun + len(piece.ids)) % length
        if not begun:
            rows.append(row)
            row = []
    return rows, row


def write(folder: Path, rows: Sequence[TokenRow], length: int) -> int:
    """Write pieces as rows of `length` tokens (the last one shorter) whose texts do not see each other; returns how many."""
    write_rows(folder, rows)
    ends = np.cumsum([len(row.ids) for row in rows])
    full = [index + 1 for index in np.flatnonzero(ends % length == 0).tolist()]
    packs = full if full and full[-1] == len(rows) else [*full, len(rows)]
    np.save(folder / "order.npy", np.arange(len(rows), dtype=np.int64))
    np.save(folder / "packs.npy", np.asarray(packs, np.int64))
    return len(packs)
