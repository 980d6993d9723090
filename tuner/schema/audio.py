"""Tasks of the `task:` section for recordings: `transcribe` writes what is said in them, `classify_audio` says what they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Encoder, Labelled

# Written without spaces between words: an error rate of words says nothing.
UNSPACED = (
    "zh",
    "ja",
    "yue",
    "th",
    "lo",
    "my",
    "km",
    "bo",
    "chinese",
    "japanese",
    "cantonese",
    "thai",
    "lao",
    "burmese",
    "khmer",
    "tibetan",
)


class Normalizer(StrEnum):
    """How both texts are made alike before errors are counted, by the names of Whisper's own normalizers."""

    auto = "auto"
    """`english` for English, else `basic`."""
    english = "english"
    """Lower case, no punctuation, numbers as digits, contractions written out, one spelling."""
    basic = "basic"
    """Lower case, no punctuation."""
    none = "none"
    """As they are."""


@kind("task", "transcribe")
@dataclass(kw_only=True)
class Transcribe(Encoder):
    """Speech to text with a Whisper."""

    impl: ClassVar[str] = "tuner.tasks.transcribe"
    head: ClassVar[str] = "speech"
    pipeline_tag: ClassVar[str] = "automatic-speech-recognition"
    planned: ClassVar[bool] = False

    max_length: int = opt(448, affects="prepare baseline", ge=8)
    """Longest text in tokens, with those that Whisper begins with; a longer one is cut at the end, and the audit counts it."""
    language: str | None = opt(None, affects="prepare baseline")
    """What is spoken: `zh`, `de`, … or `chinese`; a model of many languages needs it, one of English alone has no use for it."""
    translate: bool = opt(False, affects="prepare baseline")
    """The texts are English, whatever is spoken."""
    normalizer: Normalizer = opt(Normalizer.auto, affects="baseline")
    """How texts are made alike before errors are counted: `english`, `basic` (any language) or `none`."""


@kind("task", "classify_audio")
@dataclass(kw_only=True)
class ClassifyAudio(Labelled):
    """A class for each recording, with wav2vec2, HuBERT, an audio spectrogram transformer, or Whisper's encoder."""

    impl: ClassVar[str] = "tuner.tasks.classify_audio"
    head: ClassVar[str] = "audio"
    pipeline_tag: ClassVar[str] = "audio-classification"
    planned: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"

    max_seconds: float = opt(30.0, affects="prepare baseline", gt=0)
    """A longer recording is cut at its end, and the audit counts it."""
