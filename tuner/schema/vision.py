"""`task: vlm` of the `task:` section: models that see images and write. `task: {max_pixels: 500000}`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Grouped, LossOn


@kind("task", "vlm")
@dataclass(kw_only=True)
class Vlm(Grouped):
    """Conversations about images (Qwen-VL, Idefics3, LLaVA and their kin): a question and an image, and what is to be answered."""

    impl: ClassVar[str] = "tuner.tasks.vlm"
    extra: ClassVar[str] = "vision"
    head: ClassVar[str] = "image_text"
    pipeline_tag: ClassVar[str] = "image-text-to-text"
    planned: ClassVar[bool] = False
    whole: ClassVar[bool] = True  # images of a batch lie end to end in some models, and in others below each other

    max_length: int = opt(2048, affects="prepare baseline", ge=8)
    """Longest row in tokens, those of its images included; what goes beyond is cut at the end. Images are never cut: that is an error."""
    loss_on: LossOn = opt(LossOn.assistant, affects="prepare baseline")
    """Which tokens are trained: `assistant` (every assistant turn with its end of turn), `last_assistant`, `completion`, or `all`; those
    that stand for an image never are."""
    max_pixels: int = opt(1_000_000, affects="prepare baseline", ge=256)
    """Larger images are made smaller before the model's own processor sees them: often their size decides how many tokens they take."""
    train_vision: bool = opt(False, affects="train")
    """Whether what sees is trained too: the vision tower, and what leads from it to the language model, which alone learns otherwise."""
