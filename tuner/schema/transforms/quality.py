"""Transforms that drop rows of poor text, by the rules of the Gopher paper (Rae et al. 2021, table A1): `[quality_repetition]`."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.filters import Filter


@dataclass(kw_only=True)
class Quality(Filter):
    """A judgement of text."""

    impl = "tuner.data.transforms.quality"


@kind("transform", "quality_repetition")
@dataclass(kw_only=True)
class QualityRepetition(Quality):
    """Drops texts that repeat themselves: the same lines, or the same word n-grams, again and again."""

    example = "quality_repetition"
    lines: float = opt(0.3, ge=0, le=1)
    """Largest share of lines that stood before."""
    grams: float = opt(0.3, ge=0, le=1)
    """Largest share of word n-grams that stood before."""
    ngram: int = opt(4, ge=1, le=20)
    """Words (in unspaced scripts: characters) of an n-gram."""


@kind("transform", "quality_symbols")
@dataclass(kw_only=True)
class QualitySymbols(Quality):
    """Drops texts with many `#` and ellipses for their words, or many lines that end in an ellipsis."""

    main = "most"
    example = "quality_symbols"
    most: float = opt(0.1, ge=0)
    """Most symbols a word."""
    ellipsis_lines: float = opt(0.3, ge=0, le=1)
    """Largest share of lines that end in an ellipsis."""


@kind("transform", "quality_alphabetic")
@dataclass(kw_only=True)
class QualityAlphabetic(Quality):
    """Drops texts in which too few words have a letter (of any script)."""

    main = "least"
    example = "quality_alphabetic: 0.8"
    least: float = opt(0.8, ge=0, le=1)
    """Least share of words with a letter."""


@kind("transform", "quality_mean_word_length")
@dataclass(kw_only=True)
class QualityMeanWordLength(Quality):
    """Drops texts whose words are too short or too long on average; unspaced scripts are not judged."""

    example = "quality_mean_word_length: {least: 3, most: 10}"
    least: float = opt(3.0, ge=0)
    """Shortest mean, in characters."""
    most: float = opt(10.0, gt=0)
    """Longest mean, in characters (Gopher's, for English; German and Finnish want 14)."""


@kind("transform", "quality_terminal_punctuation")
@dataclass(kw_only=True)
class QualityTerminalPunctuation(Quality):
    """Drops texts in which too few lines end a sentence, in the marks of any script."""

    main = "least"
    example = "quality_terminal_punctuation: {least: 0.5, fields: [completion]}"
    least: float = opt(0.5, ge=0, le=1)
    """Least share of lines that end in `.`, `!`, `?`, `。`, `؟`, `।` and their like, quotation marks and brackets behind them."""


@kind("transform", "quality_stop_words")
@dataclass(kw_only=True)
class QualityStopWords(Quality):
    """Drops texts with fewer than `least` of the commonest English words (the, be, to, of, and, that, have, with): lists, not prose."""

    main = "least"
    example = "quality_stop_words: 2"
    least: int = opt(2, ge=1, le=8)
    """How many of them there must be."""
