"""Training rows that hold parts of held-out ones: `overlap(train, held_out)` -> which, and with what, by shared 8-grams of words.

As in GPT-3's appendix C (Brown et al. 2020): words in small letters without marks; characters where no spaces stand between words. A gram
that many held-out rows share (a fixed instruction, the frame of a prompt) tells nothing and is not counted. A row shorter than a gram
counts when the whole of it is a held-out row. System messages are left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuner.data.load import Rows
from tuner.data.transforms.chat import conversations, role
from tuner.data.transforms.steps import Row, texts_of
from tuner.data.words import tokens_of

NGRAM = 8
COMMON_SHARE, COMMON_LEAST = 0.05, 2  # a gram in more held-out rows than both says nothing about any of them
MOST_SHOWN = 5


@dataclass(kw_only=True)
class Overlap:
    """What was found. `rows`: indices of training rows; `held_out`: of the held-out rows that they hold parts of."""

    rows: list[int] = field(default_factory=list)
    held_out: set[int] = field(default_factory=set)
    identical: int = 0
    common: int = 0
    first: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _Index:
    """Grams of the held-out rows, by numbers: word -> number, hash of 8 numbers -> a row that has it; whole rows too."""

    words: dict[str, int] = field(default_factory=dict)
    grams: dict[int, int] = field(default_factory=dict)
    whole: dict[int, int] = field(default_factory=dict)
    common: int = 0


def overlap(train: Rows, held_out: Rows) -> Overlap:
    """Which training rows share an 8-gram with which held-out rows; the first few with their places and the words."""
    index, found = _index(held_out), Overlap()
    found.common = index.common
    for number, row in enumerate(train):
        texts = [tokens_of(text) for text in _texts(row)]
        same = index.whole.get(_hash_all(texts))
        hit = _hit(texts, index) if same is None else (same, "the whole row")
        if hit is None:
            continue
        found.rows.append(number)
        found.held_out.add(hit[0])
        found.identical += same is not None
        if len(found.first) < MOST_SHOWN:
            found.first.append({"row": train.place(number), "held_out": held_out.place(hit[0]), "shared": hit[1]})
    return found


def summary(found: Overlap, *, train: int, held_out: int) -> dict[str, Any]:
    """As `data.json` holds it. The shares are of all training rows and all held-out rows."""
    return {
        "ngram": NGRAM,
        "rows": len(found.rows),
        "share": round(len(found.rows) / max(1, train), 4),
        "held_out": len(found.held_out),
        "held_out_rows": held_out,
        "identical": found.identical,
        "common_grams_left_out": found.common,
        "first": found.first,
    }


def told(facts: dict[str, Any]) -> str:
    """`12 training rows hold parts of 5 of 126 held-out rows (2 are the same): train.jsonl:3 and eval.jsonl:9: the words`."""
    if not facts["rows"]:
        return f"no training row shares {facts['ngram']} words in a row with a held-out one"
    first = facts["first"][0]
    rows = f"{facts['rows']:,} training {'row shares' if facts['rows'] == 1 else 'rows share'} {facts['ngram']} words in a row"
    whole = f", {facts['identical']:,} the whole row" if facts["identical"] else ""
    held_out = f"{facts['held_out']:,} of {facts['held_out_rows']:,} held-out rows"
    return f"{rows} with {held_out}{whole}; the first: {first['row']} and {first['held_out']}: {first['shared']}"


def _texts(row: Row) -> Iterator[str]:
    """The texts that may give a held-out row away."""
    spoken = {name: [t for t in turns if role(t) != "system"] for name, turns in conversations(row, ())}
    return texts_of({k: v for k, v in (row | spoken).items() if k != "system"} if spoken or "system" in row else row)


def _index(held_out: Rows) -> _Index:
    index, counts = _Index(), Counter[int]()
    number_of = index.words
    for number, row in enumerate(held_out):
        texts = [tokens_of(text) for text in _texts(row)]
        if any(texts):
            index.whole.setdefault(_hash_all(texts), number)
        mine = set[int]()
        for tokens in texts:
            ids = [number_of.setdefault(token, len(number_of)) for token in tokens]
            mine.update(hash(tuple(ids[i : i + NGRAM])) for i in range(len(ids) - NGRAM + 1))
        counts.update(mine)
        for gram in mine:
            index.grams.setdefault(gram, number)
    most = max(COMMON_LEAST, COMMON_SHARE * len(held_out))
    for gram, count in counts.items():
        if count > most:
            del index.grams[gram]
            index.common += 1
    return index


def _hash_all(texts: list[list[str]]) -> int:
    """One number for all words of a row (of this process: it is never kept)."""
    return hash(tuple(token for tokens in texts for token in tokens))


def _hit(texts: Sequence[list[str]], index: _Index) -> tuple[int, str] | None:
    """(a held-out row, the words shared) of the first gram that is found."""
    grams, get = index.grams, index.words.get
    for tokens in texts:
        if len(tokens) < NGRAM:
            continue
        ids = [get(token, -1) for token in tokens]
        free = -1  # where the last word stands that no held-out row has: no gram over it can be found
        for end, number in enumerate(ids):
            if number < 0:
                free = end
            elif end - free >= NGRAM:
                there = grams.get(hash(tuple(ids[end - NGRAM + 1 : end + 1])))
                if there is not None:
                    return there, " ".join(tokens[end - NGRAM + 1 : end + 1])
    return None
