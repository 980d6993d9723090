"""Answers found in a text, and what they are worth: `likely(windows, outputs, context, 30)` -> Candidates; `f1("the Eiffel Tower", […])`.

Exact match and F1 are SQuAD's (https://arxiv.org/abs/1606.05250): words in small letters, without punctuation and articles. Of scripts that
have no spaces each character is a word, and their punctuation is left out too.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from tuner.data.windows import Window
from tuner.data.words import UNSPACED

BEST = 20  # spans of each window that are looked at
_ARTICLES = regex.compile(r"\b(a|an|the)\b")
_MARKS = str.maketrans("", "", string.punctuation)
_ALL_MARKS = regex.compile(r"\p{P}")
_PIECES = regex.compile(rf"{UNSPACED.pattern}|(?:(?!{UNSPACED.pattern}).)+")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A part of the text, or nothing (`text` is empty); its sum of logits, and its share of all that was looked at."""

    text: str
    begin: int
    end: int
    score: float
    probability: float = 0.0


def likely(
    windows: Sequence[Window], outputs: Sequence[NDArray[np.float32]], context: str, longest: int, *, nothing: bool
) -> list[Candidate]:
    """The likeliest answers of one row, from all of its windows ([tokens, 2] each), of at most `longest` tokens; at least one.

    With `nothing` one of them may be that the text does not say: as likely as the window where that is least likely.
    """
    found: dict[tuple[int, int], float] = {}
    for window, logits in zip(windows, outputs, strict=True):
        for begin, end, score in _spans(window, logits, longest):
            found[begin, end] = max(score, found.get((begin, end), score))
    if nothing or not found:
        found[0, 0] = min(float(logits[window.nowhere].sum()) for window, logits in zip(windows, outputs, strict=True))
    scores = np.asarray(list(found.values()))
    shares = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    order = np.argsort(-scores, kind="stable")
    spans = list(found)
    return [
        Candidate(text=context[b:e].strip(), begin=b, end=e, score=float(scores[i]), probability=float(shares[i]))
        for i in order.tolist()
        for b, e in [spans[i]]
    ]


def _spans(window: Window, logits: NDArray[np.float32], longest: int) -> list[tuple[int, int, float]]:
    """The best spans of a window: [(first character, the one behind the last, sum of logits)]."""
    there = np.flatnonzero((window.offsets[:, 0] >= 0) & (window.offsets[:, 1] > window.offsets[:, 0]))
    if not len(there):
        return []
    most = min(longest, len(there))
    ends = np.concatenate([logits[there, 1], np.full(most - 1, -np.inf, np.float32)])
    sums = (logits[there, 0][:, None] + np.lib.stride_tricks.sliding_window_view(ends, most)).ravel()
    best = np.argpartition(-sums, min(BEST, len(sums) - 1))[:BEST]
    pairs = [(int(i) // most, int(i) // most + int(i) % most, float(sums[i])) for i in best if np.isfinite(sums[i])]
    return [(int(window.offsets[there[a], 0]), int(window.offsets[there[b], 1]), score) for a, b, score in pairs]


def pieces(text: str) -> list[str]:
    """What two answers are compared by."""
    text = text.lower().translate(_MARKS)
    if not UNSPACED.search(text):
        return _ARTICLES.sub(" ", text).split()
    return [piece for word in _ARTICLES.sub(" ", _ALL_MARKS.sub("", text)).split() for piece in _PIECES.findall(word)]


def exact(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references."""
    return max(float(pieces(answer) == pieces(reference)) for reference in references)


def f1(answer: str, references: Sequence[str]) -> float:
    """How many words an answer shares with the reference that it is nearest to; of no words 1 where neither has any."""
    return max(_f1(pieces(answer), pieces(reference)) for reference in references)


def _f1(said: list[str], true: list[str]) -> float:
    if not said or not true:
        return float(said == true)
    same = sum((Counter(said) & Counter(true)).values())
    return 2 * same / (len(said) + len(true))


def compared(answer: str, references: Sequence[str], *, some_without: bool) -> dict[str, float]:
    """The scores of a row; `references` is empty where the text does not say, which some rows of the set may have."""
    true = [*references] or [""]
    found: dict[str, Any] = {"exact_match": exact(answer, true), "f1": f1(answer, true)}
    if some_without:
        found |= {"answered_f1": found["f1"]} if references else {"unanswered_accuracy": float(not answer)}
    return found
