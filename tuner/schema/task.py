"""The `task:` section: what is learned from the rows. `task: sft` learns the assistant's turns of a conversation."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import Section, opt


class LossOn(StrEnum):
    """Which tokens carry the loss."""

    assistant = "assistant"
    last_assistant = "last_assistant"
    completion = "completion"
    all = "all"


@dataclass(kw_only=True)
class Task(Section):
    """What every task has."""

    variant_affects: ClassVar[str] = "prepare baseline train"

    max_length: int = opt(1024, affects="prepare baseline", ge=8)
    """Longest row in tokens; what goes beyond is cut at the end, and the audit counts it."""


@kind("task", "sft")
@dataclass(kw_only=True)
class Sft(Task):
    """Supervised fine-tuning on conversations."""

    impl: ClassVar[str] = "tuner.tasks.sft"

    loss_on: LossOn = opt(LossOn.assistant, affects="prepare baseline")
    """Which tokens are trained: `assistant` (every assistant turn with its end of turn), `last_assistant`, `completion`
    (the turns that answer the prompt of a prompt/completion row; elsewhere the last one), or `all`."""
    packing: bool = opt(False, affects="prepare")
    """Fill rows up to `max_length` with several conversations that do not see each other; needs `trainer.padding_free`."""
