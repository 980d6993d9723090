"""Tasks of the `task:` section that learn what is liked: `dpo`, `simpo`, `cpo`, `orpo`, `kto`, and `reward`, which gives a number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Task


class Preference(StrEnum):
    """Losses over two answers, by TRL's names."""

    sigmoid = "sigmoid"
    hinge = "hinge"
    ipo = "ipo"
    robust = "robust"
    sigmoid_norm = "sigmoid_norm"
    apo_zero = "apo_zero"
    apo_down = "apo_down"
    nca_pair = "nca_pair"
    sppo_hard = "sppo_hard"


@dataclass(kw_only=True)
class Paired(Task):
    """Tasks whose rows are learned two conversations at a time."""

    whole: ClassVar[bool] = True
    texts: ClassVar[int] = 2


@kind("task", "reward")
@dataclass(kw_only=True)
class Reward(Paired):
    """A number for a conversation: higher for the better of two answers (Bradley and Terry)."""

    impl: ClassVar[str] = "tuner.tasks.reward"
    head: ClassVar[str] = "sequence"
    pipeline_tag: ClassVar[str] = "text-classification"


@dataclass(kw_only=True)
class Preferring(Paired):
    """Tasks of models that write which learn what is liked."""

    impl: ClassVar[str] = "tuner.tasks.preference"
    reference: ClassVar[bool] = False
    """Whether answers are compared with what the model said before training."""
    by_token: ClassVar[bool] = False
    """Whether an answer is worth the mean of its tokens, not their sum."""

    beta: float = opt(0.1, affects="train", gt=0)
    """How far the model may move: the larger, the less."""


@kind("task", "dpo")
@dataclass(kw_only=True)
class Dpo(Preferring):
    """Direct preference optimisation and its kin, against the model as it was before training (https://arxiv.org/abs/2305.18290)."""

    reference: ClassVar[bool] = True

    loss_type: Preference = opt(Preference.sigmoid, affects="train")
    """`sigmoid` is DPO, `ipo` https://arxiv.org/abs/2310.12036, `robust` takes `label_noise` of the rows for wrong."""
    label_noise: float = opt(0.0, affects="train", ge=0, lt=0.5)
    """Share of rows whose preference is the wrong way round (`robust`: its loss; `sigmoid`: smoothed labels)."""
    sft_weight: float = opt(0.0, affects="train", ge=0)
    """The loss of the better answer is added with this weight: it keeps what is liked likely."""


@kind("task", "simpo")
@dataclass(kw_only=True)
class SimPo(Preferring):
    """Without a reference: the mean over an answer's tokens, with a margin (https://arxiv.org/abs/2405.14734)."""

    by_token: ClassVar[bool] = True

    beta: float = opt(2.0, affects="train", gt=0)
    """What the difference of the two means is multiplied by."""
    margin: float = opt(1.0, affects="train", ge=0)
    """By how much the better answer is to win, after `beta`."""


@kind("task", "cpo")
@dataclass(kw_only=True)
class Cpo(Preferring):
    """Without a reference: DPO's loss of the answers themselves, and the loss of the better one (https://arxiv.org/abs/2401.08417)."""

    sft_weight: float = opt(1.0, affects="train", ge=0)
    """Weight of the loss of the better answer."""


@kind("task", "orpo")
@dataclass(kw_only=True)
class Orpo(Preferring):
    """The loss of the better answer, and `beta` times that of the odds against the worse one (https://arxiv.org/abs/2403.07691)."""

    by_token: ClassVar[bool] = True


@kind("task", "kto")
@dataclass(kw_only=True)
class Kto(Preferring):
    """Single answers that were liked or not, against the model as it was before training (https://arxiv.org/abs/2402.01306)."""

    impl: ClassVar[str] = "tuner.tasks.kto"
    reference: ClassVar[bool] = True

    desirable_weight: float = opt(1.0, affects="train", gt=0)
    """Weight of answers that were liked: with few of them, more."""
    undesirable_weight: float = opt(1.0, affects="train", gt=0)
    """Weight of answers that were not."""
