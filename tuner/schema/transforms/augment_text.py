"""Augmentation of texts, in `fields`: `data: {transforms: [{augment_typos: [prompt]}, {augment_case: {fields: [prompt], copies: 1}}]}`.

No maintained library does this without downloads, and each is a few lines (looked at: nlpaug, augmentex, textaugment, textattack).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.augment import Augment


@dataclass(kw_only=True)
class AugmentText(Augment):
    """A random change of texts."""

    impl, main = "tuner.data.transforms.augment_text", "fields"
    columns: ClassVar[tuple[str, ...]] = ("fields",)
    fields: list[str] = opt()
    """Columns of texts, or of messages, of which the user's are changed: what the model is to answer, not what it is to say."""


@kind("transform", "augment_typos")
@dataclass(kw_only=True)
class Typos(AugmentText):
    """Mistypes letters: a neighbour on the keyboard, one left out, doubled, or changed with the next."""

    example = "augment_typos: {fields: [prompt], rate: 0.03}"
    rate: float = opt(0.03, gt=0, le=1)
    """Share of the letters."""


@kind("transform", "augment_case")
@dataclass(kw_only=True)
class Case(AugmentText):
    """Writes the text in small letters, in capitals, or without the mark at its end, as people type."""

    example = "augment_case: {fields: [prompt], chance: 0.3}"


@kind("transform", "augment_drop_words")
@dataclass(kw_only=True)
class DropWords(AugmentText):
    """Leaves words out, at least one where there are several (not in scripts without spaces)."""

    example = "augment_drop_words: {fields: [prompt], rate: 0.1, copies: 1}"
    rate: float = opt(0.1, gt=0, lt=1)
    """Share of the words."""


@kind("transform", "augment_swap_words")
@dataclass(kw_only=True)
class SwapWords(AugmentText):
    """Changes words with the next one, at least one where there are several (not in scripts without spaces)."""

    example = "augment_swap_words: {fields: [prompt], rate: 0.1}"
    rate: float = opt(0.1, gt=0, lt=1)
    """Share of the words."""
