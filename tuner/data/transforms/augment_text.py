"""Steps that augment texts: `STEPS["augment_typos"]`. What each does is said in schema/transforms/augment_text.py."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from tuner.data.transforms.augment import Change, augmented
from tuner.data.transforms.chat import role, talks
from tuner.data.transforms.steps import Row, Step, change_texts

KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
NEIGHBOURS = {
    letter: {near for other in KEYBOARD[max(0, y - 1) : y + 2] for near in other[max(0, x - 1) : x + 2]} - {letter}
    for y, keys in enumerate(KEYBOARD)
    for x, letter in enumerate(keys)
}
_WORDS, _ENDS = re.compile(r"(\s+)"), re.compile(r"[.!?…]+\s*$")


def _texts(make: Callable[[Any], Callable[[str, random.Random], str]]) -> Step:
    """A step that changes the texts of `fields`; of messages, those of the user."""

    def of(step: Any) -> Change:
        change = make(step)

        def augment(row: Row, own: random.Random) -> Row:
            spoken = dict(talks(row))
            for name in step.fields:
                said = partial(_with, change, own)
                row = _asked(row, name, said) if name in spoken else change_texts(row, [name], said)
            return row

        return augment

    return augmented(of)


def _with(change: Callable[[str, random.Random], str], own: random.Random, text: str) -> str:
    return change(text, own)


def _asked(row: Row, name: str, change: Callable[[str], str]) -> Row:
    """The row with what the user says in a column of messages changed."""
    turns = [change_texts(turn, (), change) if role(turn) == "user" else turn for turn in row[name]]
    return row if all(a is b for a, b in zip(turns, row[name], strict=True)) else row | {name: turns}


def _mistyped(step: Any) -> Callable[[str, random.Random], str]:
    def change(text: str, own: random.Random) -> str:
        letters = list(text)
        for place in [i for i, letter in enumerate(letters) if letter.isalpha() and own.random() < step.rate]:
            letter, way = letters[place], own.randrange(4)
            near = sorted(NEIGHBOURS.get(letter.lower(), ()))
            if way == 0 and near:
                other = own.choice(near)
                letters[place] = other.upper() if letter.isupper() else other
            elif way == 1 and place + 1 < len(letters) and len(letters[place + 1]) == 1 and letters[place + 1].isalpha():
                letters[place], letters[place + 1] = letters[place + 1], letter
            else:
                letters[place] = letter * 2 if way == 2 else ""
        return "".join(letters)

    return change


def _cased(step: Any) -> Callable[[str, random.Random], str]:
    ways: tuple[Callable[[str], str], ...] = (str.lower, str.upper, lambda text: _ENDS.sub("", text))
    return lambda text, own: own.choice(ways)(text)


def _words(text: str) -> tuple[list[str], list[str]]:
    """(words, the space behind each)."""
    parts = _WORDS.split(text)
    return parts[::2], [*parts[1::2], ""]


def _chosen(count: int, rate: float, own: random.Random) -> list[int]:
    """Which of so many words: a share, one at least, never all."""
    return sorted(own.sample(range(count), min(count - 1, max(1, round(rate * count))))) if count > 1 else []


def _shortened(step: Any) -> Callable[[str, random.Random], str]:
    def change(text: str, own: random.Random) -> str:
        words, spaces = _words(text)
        gone = set(_chosen(len(words), step.rate, own))
        return "".join(word + space for n, (word, space) in enumerate(zip(words, spaces, strict=True)) if n not in gone).rstrip()

    return change


def _swapped(step: Any) -> Callable[[str, random.Random], str]:
    def change(text: str, own: random.Random) -> str:
        words, spaces = _words(text)
        for place in _chosen(len(words), step.rate, own):
            other = place + 1 if place + 1 < len(words) else place - 1
            words[place], words[other] = words[other], words[place]
        return "".join(word + space for word, space in zip(words, spaces, strict=True))

    return change


STEPS: dict[str, Step] = {
    "augment_typos": _texts(_mistyped),
    "augment_case": _texts(_cased),
    "augment_drop_words": _texts(_shortened),
    "augment_swap_words": _texts(_swapped),
}
