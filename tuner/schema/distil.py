"""`task: distil` of the `task:` section: a small model learns what a large one says. `task: {teacher: qwen3-8b}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.model import Dtype
from tuner.schema.task import Sft


class Held(StrEnum):
    """How a teacher's weights are held."""

    none = "none"
    """As numbers of `task.teacher_dtype`."""
    nf4 = "nf4"
    int8 = "int8"


@kind("task", "distil")
@dataclass(kw_only=True)
class Distil(Sft):
    """A student learns a teacher's distribution over the tokens of answers (generalised knowledge distillation, off-policy)."""

    impl: ClassVar[str] = "tuner.tasks.distil"

    teacher: str | None = opt(None, content="baseline train")
    """Who teaches, with the student's own tokens: a model option (`qwen3-8b`), a Hub id, a folder, or a finished run (`run:NAME`)."""
    teacher_revision: str | None = opt(None, affects="baseline train")
    """Hub branch, tag or commit of the teacher."""
    teacher_dtype: Dtype = opt(Dtype.auto, affects="baseline train")
    """Number format of the teacher's weights; `auto`: that of the student's, `model.dtype`."""
    teacher_quant: Held = opt(Held.none, affects="baseline train")
    """`nf4` or `int8` hold the teacher in 4 or 8 bits (bitsandbytes)."""
    temperature: float = opt(1.0, affects="train", gt=0)
    """What the logits of both are divided by before they are compared: above 1, unlikely tokens count for more."""
    alpha: float = opt(0.5, affects="train", ge=0, le=1)
    """Weight of the cross-entropy of the rows' own answers; the rest is the distance from the teacher times `temperature`²."""
    jsd_beta: float = opt(0.0, affects="train", ge=0, le=1)
    """Which distance: 0 is KL(teacher ‖ student), 1 is KL(student ‖ teacher), between them lies the generalised Jensen-Shannon
    divergence (https://arxiv.org/abs/2306.13649)."""
