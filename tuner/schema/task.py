"""The `task:` section: what is learned from the rows. `sft` learns answers, `classify` labels, `tag` those of words, `embed` likeness."""

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
    """What every task has. `head`: what the model ends with (`tuner/model/heads.py`); `pipeline_tag`: what the Hub calls such models."""

    variant_affects: ClassVar[str] = "prepare baseline train"
    head: ClassVar[str] = "causal"
    pipeline_tag: ClassVar[str] = "text-generation"
    library: ClassVar[str | None] = None
    """The library whose model the result is, where that is not Transformers or PEFT."""
    chats: ClassVar[bool] = True
    """Of a model that writes, whether it answers in a conversation; else it goes on with a text."""
    extra: ClassVar[str] = ""
    """What is to be installed with us for it (`tuner[vision]`)."""
    whole: ClassVar[bool] = False
    """Whether a micro-batch is passed as one: its rows learn from each other."""
    texts: ClassVar[int] = 1
    """Texts a row, each of up to `max_length` tokens."""
    planned: ClassVar[bool] = True
    """Whether memory is worked out from the model's dimensions: those of a language model."""
    counted: ClassVar[str] = "tok"
    """What its speed is told in: tokens, or rows where those have none."""

    max_length: int = opt(1024, affects="prepare baseline", ge=8)
    """Longest row in tokens; what goes beyond is cut at the end, and the audit counts it."""

    def longest_answer(self, said: int) -> int:
        """Tokens of the longest answer that is generated when it is measured; `said`: `eval.max_new_tokens`."""
        return said

    def grown(self, length: int) -> int:
        """Tokens that pass for a prepared row of so many."""
        return length


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


@kind("task", "pretrain")
@dataclass(kw_only=True)
class Pretrain(Task):
    """Plain texts, end to end in rows of `max_length` tokens, the loss on all: to read on, or from nothing (`model.init=random`)."""

    impl: ClassVar[str] = "tuner.tasks.pretrain"
    chats: ClassVar[bool] = False


class Problem(StrEnum):
    """What a label is, by Transformers' names."""

    single_label = "single_label"
    """One of several classes."""
    multi_label = "multi_label"
    """Any number of several classes."""
    regression = "regression"
    """A number."""


@dataclass(kw_only=True)
class Grouped(Task):
    """Tasks whose rows are padded."""

    group_by_length: bool = opt(True, affects="train")
    """Batch rows of like length together, which leaves little padding; the order is still by chance."""


@dataclass(kw_only=True)
class Encoder(Grouped):
    """Tasks whose models read a text as a whole, and write none."""

    max_length: int = opt(256, affects="prepare baseline", ge=8)
    """Longest row in tokens; what goes beyond is cut at the end, and the audit counts it."""


@dataclass(kw_only=True)
class Labelled(Encoder):
    """Tasks whose rows bring labels."""

    labels: list[str] = opt(factory=list, affects="prepare baseline train")
    """Names of the labels in the order of their numbers: `[negative, positive]`; none: those that the training rows have, sorted."""


@dataclass(kw_only=True)
class Classes(Labelled):
    """Tasks whose rows each have a class, several classes, or a number."""

    problem: Problem = opt(Problem.single_label, affects="prepare baseline train")
    """`single_label` (one class a row), `multi_label` (a list of classes a row), or `regression` (a number a row)."""


@kind("task", "classify")
@dataclass(kw_only=True)
class Classify(Classes):
    """Classes of texts (or of pairs of texts), or a number for each."""

    impl: ClassVar[str] = "tuner.tasks.classify"
    head: ClassVar[str] = "sequence"
    pipeline_tag: ClassVar[str] = "text-classification"


@kind("task", "classify_image")
@dataclass(kw_only=True)
class ClassifyImage(Classes):
    """Classes of images (ViT, ConvNeXt, ResNet, …), or a number for each."""

    impl: ClassVar[str] = "tuner.tasks.classify_image"
    extra: ClassVar[str] = "vision"
    head: ClassVar[str] = "image"
    pipeline_tag: ClassVar[str] = "image-classification"
    planned: ClassVar[bool] = False
    counted: ClassVar[str] = "rows"
    # An image has no length: its processor makes all of one size.
    max_length: ClassVar[int] = 1  # type: ignore[misc]
    group_by_length: ClassVar[bool] = False  # type: ignore[misc]


@kind("task", "tag")
@dataclass(kw_only=True)
class Tag(Labelled):
    """A label for each word: named entities, parts of speech. A word's label is learned at its first piece."""

    impl: ClassVar[str] = "tuner.tasks.tag"
    head: ClassVar[str] = "token"
    pipeline_tag: ClassVar[str] = "token-classification"


@kind("task", "fill_mask")
@dataclass(kw_only=True)
class FillMask(Encoder):
    """Words that are hidden in a text: how BERT-like models learn a language, or go on with texts of a field."""

    impl: ClassVar[str] = "tuner.tasks.fill_mask"
    head: ClassVar[str] = "masked"
    pipeline_tag: ClassVar[str] = "fill-mask"

    mlm_probability: float = opt(0.15, affects="baseline train", gt=0, lt=1)
    """Share of each row's tokens that is to be filled in: 80 % of these are masked, 10 % are another token, 10 % stay. Held-out rows
    are always masked alike."""


class Pooling(StrEnum):
    """How the tokens of a text become one vector."""

    auto = "auto"
    mean = "mean"
    cls = "cls"
    lasttoken = "lasttoken"


@kind("task", "embed")
@dataclass(kw_only=True)
class Embed(Encoder):
    """Vectors of texts: near for what belongs together."""

    impl: ClassVar[str] = "tuner.tasks.embed"
    head: ClassVar[str] = "embedding"
    pipeline_tag: ClassVar[str] = "sentence-similarity"
    library: ClassVar[str | None] = "sentence-transformers"
    whole: ClassVar[bool] = True
    texts: ClassVar[int] = 2

    pooling: Pooling = opt(Pooling.auto, affects="prepare baseline train")
    """How a text's tokens become one vector; `auto`: as the model's own files say, else the mean."""
    scale: float = opt(20.0, affects="train", gt=0)
    """What similarities are multiplied by in the loss: the inverse of its temperature."""
    matryoshka_dims: list[int] = opt(factory=list, affects="baseline train")
    """Lengths at which the vectors are to be good as well when cut off there: `[256, 128, 64]` (https://arxiv.org/abs/2205.13147)."""
    hard_negatives: int = opt(0, affects="prepare", ge=0, le=32)
    """So many texts of other rows are added to each as what is wrong: those that the base finds near, but less so than the right one."""
