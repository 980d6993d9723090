"""The labels of a set: `Labels(names=("negative", "positive")).number("positive")` -> 1; `named(values)` finds the names in the rows."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tuner.data.turns import Misfit

OUTSIDE = "O"  # a word that belongs to no entity
NOTHING = 255  # in a mask: a pixel that nobody has labelled (Transformers' semantic_loss_ignore_index)
GOLDEN = 0.618034  # a turn of so much around the circle of colours is never near the turns before


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Names of labels in the order of their numbers; of a regression one, which names what is measured."""

    names: tuple[str, ...]

    def number(self, value: Any) -> int:
        """The number of a label that a row has: its name, or the number itself. Raises Misfit for another one."""
        text = text_of(value)
        if text in self.names:
            return self.names.index(text)
        if text.isdecimal() and int(text) < len(self.names) and not all(name.isdecimal() for name in self.names):
            return int(text)  # of names that are no numbers themselves
        few = ", ".join(self.names[:20]) + (" …" if len(self.names) > 20 else "")
        raise Misfit(f"the label `{text}` is none of {len(self.names)}: {few}")


def named(values: Iterable[Any]) -> Labels:
    """The labels that rows have, in order: numbers by value, names by letters, and `O` before them."""
    found = {text_of(value) for value in values}
    if all(text.lstrip("-").isdecimal() for text in found):
        return Labels(names=tuple(sorted(found, key=int)))
    return Labels(names=tuple(sorted(found, key=lambda text: (text != OUTSIDE, text))))


def text_of(value: Any) -> str:
    """A label as text: `1.0` and `1` are one, and so are true and `true`. Raises Misfit for what is no label."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, str | int | float) and str(value).strip() and value == value:  # NaN is unlike itself
        return str(value).strip()
    raise Misfit("the label is empty" if value is None or isinstance(value, str | float) else f"no label: {value!r:.80}")


def finite(value: Any, what: str) -> float:
    """A label as a number. Raises Misfit for what is none, or has no end: `what` says what it is to be."""
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise Misfit(f"{what} is {value!r:.80}")
    return found


def colour(number: int) -> tuple[int, int, int]:
    """The colour in which class `number` is shown, red, green and blue from 0 to 255: the first one is dark, as backgrounds are."""
    if number == 0:
        return (40, 40, 48)
    parts = colorsys.hsv_to_rgb(number * GOLDEN % 1, 0.75 if number % 2 else 0.5, 0.95 if number % 3 else 0.75)
    return (round(255 * parts[0]), round(255 * parts[1]), round(255 * parts[2]))
