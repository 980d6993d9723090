"""Tasks of a question and a text beside it: `task: qa` finds the answer in the text, `task: rerank` says how well it fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Encoder, Problem


@kind("task", "qa")
@dataclass(kw_only=True)
class Qa(Encoder):
    """Where in a text the answer to a question stands (SQuAD), or that it has none."""

    impl: ClassVar[str] = "tuner.tasks.qa"
    head: ClassVar[str] = "span"
    pipeline_tag: ClassVar[str] = "question-answering"

    max_length: int = opt(384, affects="prepare baseline", ge=8)
    """Longest window in tokens: the question, and as much of the text as has room. A longer text becomes several windows."""
    stride: int = opt(128, affects="prepare baseline", ge=0)
    """Tokens of the text that two windows share, so that an answer at the end of one stands whole in the other."""
    max_answer_length: int = opt(30, affects="baseline evaluate", ge=1)
    """Longest answer in tokens that is looked for when measuring. What is learned may be longer."""


@kind("task", "rerank")
@dataclass(kw_only=True)
class Rerank(Encoder):
    """A number for a query and a passage, read together (a cross-encoder): what puts the first hits of a search into order."""

    impl: ClassVar[str] = "tuner.tasks.rerank"
    head: ClassVar[str] = "sequence"
    pipeline_tag: ClassVar[str] = "text-ranking"
    library: ClassVar[str | None] = "sentence-transformers"
    problem: ClassVar[Problem] = Problem.multi_label  # of one output: whether it fits, by itself

    max_length: int = opt(512, affects="prepare baseline", ge=8)
    """Longest pair in tokens; of one that goes beyond the longer text is cut at its end, and the audit counts it."""
