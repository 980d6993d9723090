"""Training rows that repeat held-out ones: `overlap(train, held_out)` -> which, and how much of them, by shared 5-grams of words.

A training row counts when its grams cover half the words of a part of one held-out row (a column, or what one speaker says), as in Tülu 3
(Lambert et al. 2024), or 50 of them (Lee et al. 2022). One shared gram, GPT-3's rule, is mostly a stock phrase: "how many pages does he
read"; and short grams find more of what was reworded. Words are in small letters without marks; characters where no spaces stand between
words. A gram that many held-out rows share (a fixed instruction, the frame of a prompt) tells nothing, nor does one of numbers. A row
shorter than a gram counts when the whole of it is a held-out row. System messages and tools are left out.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

from tuner.data.load import Rows
from tuner.data.shown import pictures_of
from tuner.data.transforms.augment import content
from tuner.data.transforms.chat import role, talks
from tuner.data.transforms.steps import Row, texts_of
from tuner.data.words import tokens_of

NGRAM, LEAST_WORDED = 5, 3  # words of a gram, and how many of them are no numbers: sums are alike everywhere
HALF, SHORT, LONG = 0.5, 8, 50  # of the words of a held-out text: a share of at least so many (or all of them), or a number
COMMON_SHARE, COMMON_LEAST = 0.05, 2  # a gram in more held-out rows than both says nothing about any of them
FILES = ("image", "audio")  # columns of files, which are alike when their bytes are
FRAMES = ("system", "tools", "mask")  # columns, and who speaks, that many rows have alike, or that say nothing without the image
MOST_SHOWN, SHOWN = 5, 12  # examples, and words of each


@dataclass(kw_only=True)
class Overlap:
    """What was found. `rows`: indices of training rows; `held_out`: of the held-out rows that they hold parts of."""

    rows: list[int] = field(default_factory=list)
    held_out: set[int] = field(default_factory=set)
    identical: int = 0
    common: int = 0
    first: list[dict[str, str]] = field(default_factory=list)


@dataclass(kw_only=True)
class _Text:
    """A part of a held-out row. `telling`: how many of its words stand in grams that tell something."""

    row: int
    words: list[str]
    telling: int = 0


@dataclass
class _Index:
    """Grams of the held-out rows, by numbers: word -> number, hash of 5 numbers -> where they stand (text, first word); whole rows too."""

    words: dict[str, int] = field(default_factory=dict)
    grams: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    texts: list[_Text] = field(default_factory=list)
    whole: dict[int, int] = field(default_factory=dict)
    common: int = 0


def overlap(train: Rows, held_out: Rows) -> Overlap:
    """Which training rows repeat which held-out rows; the first few with their places and words."""
    index, found = _index(held_out), Overlap()
    found.common = index.common
    for number, row in enumerate(train):
        texts = [text for part in _parts(row) for text in part]
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
        "least_share": HALF,
        "least_words": LONG,
        "rows": len(found.rows),
        "share": round(len(found.rows) / max(1, train), 4),
        "held_out": len(found.held_out),
        "held_out_rows": held_out,
        "identical": found.identical,
        "common_grams_left_out": found.common,
        "first": found.first,
    }


def told(facts: dict[str, Any]) -> str:
    """`12 training rows repeat half or more of 5 of 126 held-out rows; the first: train.jsonl:3 and eval.jsonl:9: 93% of 31 words: …`."""
    if not facts["rows"]:
        return "no training row repeats half of a held-out one"
    first = facts["first"][0]
    rows = f"{facts['rows']:,} training {'row repeats' if facts['rows'] == 1 else 'rows repeat'}"
    whole = f", {facts['identical']:,} the whole row" if facts["identical"] else ""
    held_out = f"{facts['held_out']:,} of {facts['held_out_rows']:,} held-out rows"
    return f"{rows} half or more of {held_out}{whole}; the first: {first['row']} and {first['held_out']}: {first['shared']}"


def _parts(row: Row) -> Iterator[list[list[str]]]:
    """The texts that may give a held-out row away, as words: those of a column, or of all that one speaker says, are one part.

    Of a recording only itself: many people say the same.
    """
    if heard := row.get("audio"):
        yield [[heard if isinstance(heard, str) else str(crc32(repr(heard).encode()))]]
        return
    for name, value in row.items():
        if name in FRAMES:
            continue
        if name in FILES and value:
            yield [[_identity(row, name)]]
            continue
        for image in pictures_of(name, value):
            yield [[_identity({"image": image}, "image")]]
        spoken = defaultdict[str, list[list[str]]](list)
        for column, turns in talks({name: value}):
            for turn in turns:
                spoken[role(turn)] += [tokens_of(text) for text in texts_of({column: [turn]})]
        if spoken:
            yield from (said for speaker, said in spoken.items() if speaker not in FRAMES)
        else:
            yield [tokens_of(text) for text in texts_of({name: value})]


def _identity(row: Row, column: str) -> str:
    """What tells a row's file from others: its bytes; of one that cannot be read, which is told elsewhere, its name."""
    try:
        value = content(row, column)
    except (OSError, ValueError):
        value = row[column]
    return hashlib.blake2b(value if isinstance(value, bytes) else repr(value).encode(), digest_size=16).hexdigest()


def _index(held_out: Rows) -> _Index:
    index, counts = _Index(), Counter[int]()
    number_of = index.words
    for number, row in enumerate(held_out):
        parts = [*_parts(row)]
        if any(any(part) for part in parts):
            index.whole.setdefault(_hash_all([text for part in parts for text in part]), number)
        mine = set[int]()
        for part in parts:
            words: list[str] = []
            for tokens in part:
                ids = [number_of.setdefault(token, len(number_of)) for token in tokens]
                worded = [not token.isdigit() for token in tokens]
                for start in range(len(ids) - NGRAM + 1):
                    if sum(worded[start : start + NGRAM]) < LEAST_WORDED:
                        continue
                    gram = hash(tuple(ids[start : start + NGRAM]))
                    index.grams.setdefault(gram, []).append((len(index.texts), len(words) + start))
                    mine.add(gram)
                words += tokens
            index.texts.append(_Text(row=number, words=words))
        counts.update(mine)
    most = max(COMMON_LEAST, COMMON_SHARE * len(held_out))
    for gram, count in counts.items():
        if count > most:
            del index.grams[gram]
            index.common += 1
    for number, covered in _covered(index.grams.values()).items():
        index.texts[number].telling = covered.bit_count()
    return index


def _covered(found: Iterable[list[tuple[int, int]]]) -> dict[int, int]:
    """The words of held-out texts that stand in the grams found: text -> a bit for each word."""
    covered: dict[int, int] = {}
    for places in found:
        for text, start in places:
            covered[text] = covered.get(text, 0) | (1 << NGRAM) - 1 << start
    return covered


def _hash_all(texts: list[list[str]]) -> int:
    """One number for all words of a row (of this process: it is never kept)."""
    return hash(tuple(token for tokens in texts for token in tokens))


def _hit(texts: Sequence[list[str]], index: _Index) -> tuple[int, str] | None:
    """(a held-out row, how much of it is repeated) for the text that is repeated most, where that is enough."""
    best: tuple[float, _Text, int] | None = None
    for number, words in _covered(_found(texts, index)).items():
        text, covered = index.texts[number], words.bit_count()
        share = covered / text.telling
        if (share == 1 or (share >= HALF and covered >= SHORT) or covered >= LONG) and (best is None or share > best[0]):
            best = share, text, words
    if best is None:
        return None
    share, text, words = best
    repeated = [word for number, word in enumerate(text.words) if words >> number & 1]
    return text.row, f"{share:.0%} of {text.telling} words: {' '.join(repeated[:SHOWN])}{' …' if len(repeated) > SHOWN else ''}"


def _found(texts: Sequence[list[str]], index: _Index) -> Iterator[list[tuple[int, int]]]:
    """Where the grams of a training row stand in held-out texts."""
    grams, get = index.grams, index.words.get
    for tokens in texts:
        if len(tokens) < NGRAM:
            continue
        ids = [get(token, -1) for token in tokens]
        free = -1  # where the last word stands that no held-out row has: no gram over it can be found
        for end, number in enumerate(ids):
            if number < 0:
                free = end
            elif end - free >= NGRAM and (there := grams.get(hash(tuple(ids[end - NGRAM + 1 : end + 1])))):
                yield there
