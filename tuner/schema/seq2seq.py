"""Tasks of models that read one text and write another (T5, BART): `task: seq2seq`, `translate`, `summarize`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Grouped


@kind("task", "seq2seq")
@dataclass(kw_only=True)
class Seq2Seq(Grouped):
    """A text from a text, with an encoder and a decoder (T5, BART, Marian, Pegasus)."""

    impl: ClassVar[str] = "tuner.tasks.seq2seq"
    head: ClassVar[str] = "seq2seq"
    pipeline_tag: ClassVar[str] = "text2text-generation"
    planned: ClassVar[bool] = False

    max_length: int = opt(512, affects="prepare baseline", ge=8)
    """Longest source in tokens, its prefix among them; what goes beyond is cut at the end, and counted."""
    max_target_length: int = opt(128, affects="prepare baseline", ge=2)
    """Longest target in tokens. Of one that is cut the end is not learned; generated answers are no longer than this."""
    prefix: str = opt("", affects="prepare baseline")
    """What stands before each source: T5 was taught `"summarize: "` and `"translate English to German: "`."""

    def longest_answer(self, said: int) -> int:
        """Not longer than a target may be."""
        return min(said, self.max_target_length)


@kind("task", "translate")
@dataclass(kw_only=True)
class Translate(Seq2Seq):
    """Translation. Rows may be `{translation: {en: …, de: …}}`."""

    pipeline_tag: ClassVar[str] = "translation"

    max_length: int = opt(256, affects="prepare baseline", ge=8)
    """Longest source in tokens, its prefix among them; what goes beyond is cut at the end, and counted."""
    max_target_length: int = opt(256, affects="prepare baseline", ge=2)
    """Longest target in tokens. Of one that is cut the end is not learned; generated answers are no longer than this."""
    source_lang: str | None = opt(None, affects="prepare baseline")
    """Which text of `translation` is read: its name there, as `en`; default: the first."""
    target_lang: str | None = opt(None, affects="prepare baseline")
    """Which text of `translation` is written: its name there, as `de`; default: the other one."""


@kind("task", "summarize")
@dataclass(kw_only=True)
class Summarize(Seq2Seq):
    """Summaries of texts."""

    pipeline_tag: ClassVar[str] = "summarization"
