"""`task: diffusion`: images from texts, with the models of diffusers' pipelines (Stable Diffusion, SDXL, Stable Diffusion 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Task


@kind("task", "diffusion")
@dataclass(kw_only=True)
class Diffusion(Task):
    """Images from texts: a style, a subject, a field (Stable Diffusion, SDXL, Stable Diffusion 3, Flux)."""

    impl: ClassVar[str] = "tuner.tasks.diffusion"
    extra: ClassVar[str] = "diffusion"
    head: ClassVar[str] = "diffusion"
    pipeline_tag: ClassVar[str] = "text-to-image"
    library: ClassVar[str | None] = "diffusers"
    chats: ClassVar[bool] = False
    planned: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"
    # An image has no length: all are made of one size.
    max_length: ClassVar[int] = 1  # type: ignore[misc]

    resolution: int | None = opt(None, affects="prepare baseline", ge=8)
    """Pixels of each side: images are resized, and what is longer is cut alike at both ends. Default: what the model was made for."""
    instance_prompt: str | None = opt(None, affects="prepare baseline")
    """The caption of images that have none: a few of one subject, under a word that means nothing yet (`a photo of sks dog`)."""
    caption_dropout: float = opt(0.1, affects="train", ge=0, lt=1)
    """Share of the images that are learned without their caption: what guidance is away from must go on being known."""
    snr_gamma: float | None = opt(None, affects="train", gt=0)
    """Weigh each noise level by its signal-to-noise ratio, cut off here (https://arxiv.org/abs/2303.09556): 5 is usual. Not for flows."""
    sample_prompts: list[str] = opt(factory=list, affects="baseline")
    """What is painted before and after, for the report; none: the first captions that are held out."""
    samples: int = opt(4, affects="baseline", ge=1, le=64)
    """How many held-out captions are painted, where `sample_prompts` names none."""
    sample_steps: int = opt(25, affects="baseline", ge=1)
    """Steps in which a sample is painted."""
    guidance_scale: float | None = opt(None, affects="baseline", ge=0)
    """How strictly samples follow their prompt; default: the pipeline's own."""
