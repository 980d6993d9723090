"""Steps that drop poor text: `STEPS["quality_repetition"]`. Numbers: Gopher (Rae et al. 2021, A1); schema/transforms/quality.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import regex

from tuner.data.transforms.steps import Row, Step, kept, whole_text
from tuner.data.words import UNSPACED, tokens_of, words_of

_SYMBOL, _ELLIPSIS_END = regex.compile(r"#|\.\.\.|…"), regex.compile(r"(?:\.\.\.|…)$")
_LETTER = regex.compile(r"\p{L}")
_ENDS = regex.compile(r"[.!?。！？؟۔।॥։。…‼⁉⁈][\"'”’»)\]}」』）*_`]*$")
_BULLET = regex.compile(r"^\W+$")
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})


def _repeated(items: Sequence[Any]) -> float:
    """Share of items that stood before."""
    return 1 - len(set(items)) / len(items) if items else 0.0


def _lines(text: str) -> list[str]:
    return [line for raw in text.split("\n") if (line := raw.strip())]


def _repetition(step: Any) -> Callable[[Row], bool]:
    def keep(row: Row) -> bool:
        text = whole_text(row, step.fields)
        if _repeated(_lines(text)) > step.lines:
            return False
        tokens = tokens_of(text)
        grams = list(zip(*(tokens[i:] for i in range(step.ngram)), strict=False))
        return bool(_repeated(grams) <= step.grams)

    return keep


def _symbols(step: Any) -> Callable[[Row], bool]:
    def keep(row: Row) -> bool:
        text = whole_text(row, step.fields)
        lines, words = _lines(text), max(1, len(words_of(text)))
        trailing = sum(_ELLIPSIS_END.search(line) is not None for line in lines)
        few = len(_SYMBOL.findall(text)) <= step.most * words and trailing <= step.ellipsis_lines * max(1, len(lines))
        return bool(few)

    return keep


def _alphabetic(step: Any) -> Callable[[Row], bool]:
    def keep(row: Row) -> bool:
        words = whole_text(row, step.fields).split()
        return bool(sum(_LETTER.search(word) is not None for word in words) >= step.least * len(words))

    return keep


def _word_length(step: Any) -> Callable[[Row], bool]:
    def keep(row: Row) -> bool:
        words = [w for w in words_of(whole_text(row, step.fields)) if not UNSPACED.match(w)]
        return not words or bool(step.least <= sum(map(len, words)) / len(words) <= step.most)

    return keep


def _punctuation(step: Any) -> Callable[[Row], bool]:
    def keep(row: Row) -> bool:
        lines = [line for line in _lines(whole_text(row, step.fields)) if not _BULLET.match(line)]
        return bool(sum(_ENDS.search(line) is not None for line in lines) >= step.least * len(lines))

    return keep


STEPS: dict[str, Step] = {
    "quality_repetition": kept(_repetition),
    "quality_symbols": kept(_symbols),
    "quality_alphabetic": kept(_alphabetic),
    "quality_mean_word_length": kept(_word_length),
    "quality_terminal_punctuation": kept(_punctuation),
    "quality_stop_words": kept(
        lambda step: lambda row: len(STOP_WORDS.intersection(tokens_of(whole_text(row, step.fields)))) >= step.least
    ),
}
