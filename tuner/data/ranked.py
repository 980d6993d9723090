"""Queries and passages, and how well they fit: `pairs_of({"anchor": q, "positive": p, "negatives": [n]})` -> [(q, p, 1.0), (q, n, 0.0)]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tuner.data.labelled import Found
from tuner.data.related import likeness, texts_of
from tuner.data.shapes import Example
from tuner.data.turns import Misfit

Pair = tuple[str, str, float]  # query, passage, and how well it fits, 0 to 1


def pairs_of(example: Example) -> list[Pair]:
    """The pairs of a row: one with its label, or what is right and what is wrong. Raises Misfit for a label that is not from 0 to 1."""
    query, passage, *others = texts_of(example)
    if not all(text.strip() for text in (query, passage, *others)):
        raise Misfit("the query or a passage is empty")
    label = likeness(example)
    if not 0 <= label <= 1:
        raise Misfit(f"how well a passage fits is 0, 1 or a number between, and this is {label:g}: divide by the highest")
    return [(query, passage, label), *((query, other, 0.0) for other in others)]


def unfolded(found: Found, rows: Sequence[Sequence[Pair]]) -> Found:
    """Each pair an Example of its own, which stands where its row does."""
    examples = [{"text": query, "text_pair": passage} for row in rows for query, passage, _ in row]
    places = [place for place, row in zip(found.places, rows, strict=True) for _ in row]
    return Found(examples=examples, places=places, misfits=found.misfits, layouts=found.layouts)


def graded(pairs: Sequence[Pair]) -> bool:
    """Whether some label is neither 0 nor 1."""
    return any(label not in (0.0, 1.0) for *_, label in pairs)


def counts(pairs: Sequence[Pair]) -> Counter[str]:
    """How many passages fit, and how many do not; of grades how many there are of each tenth."""
    if graded(pairs):
        return Counter(f"{label:.1f}" for *_, label in pairs)
    return Counter("fits" if label else "does not fit" for *_, label in pairs)
