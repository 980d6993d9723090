"""The `adapter:` section: which parameters are trained. `adapter: lora`, then `adapter: {r: 32}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from tuner.registry import kind
from tuner.schema.base import Section, opt


class Bias(StrEnum):
    """Which biases are trained."""

    none = "none"
    all = "all"
    lora_only = "lora_only"


class Quant(StrEnum):
    """Number formats of a quantised base."""

    nf4 = "nf4"
    fp4 = "fp4"
    int8 = "int8"


@dataclass(kw_only=True)
class Adapter(Section):
    """What every adapter has."""

    impl: ClassVar[str] = "tuner.model.adapt"
    variant_affects: ClassVar[str] = "train"


@kind("adapter", "full")
@dataclass(kw_only=True)
class Full(Adapter):
    """Full fine-tuning: every parameter is trained, in fp32 under autocast, and saved in `model.dtype`."""


@kind("adapter", "lora")
@dataclass(kw_only=True)
class Lora(Adapter):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685): the base is frozen, small matrices beside it are trained."""

    r: int = opt(16, affects="train", ge=1)
    """Rank of the update."""
    lora_alpha: int = opt(32, affects="train", ge=1)
    """Scale: the update is multiplied by `lora_alpha / r`."""
    lora_dropout: float = opt(0.0, affects="train", ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: Any = opt("all-linear", affects="train", accepts="str | list[str]")
    """`all-linear`, a regular expression, or a list of module names."""
    modules_to_save: list[str] = opt(factory=list, affects="train")
    """Modules trained in full and saved with the adapter."""
    bias: Bias = opt(Bias.none, affects="train")
    """Which biases are trained."""
    use_rslora: bool = opt(False, affects="train")
    """Scale by `lora_alpha / sqrt(r)` (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = opt(False, affects="train")
    """Weight-decomposed update, DoRA (https://arxiv.org/abs/2402.09353)."""


@kind("adapter", "qlora")
@dataclass(kw_only=True)
class QLora(Lora):
    """LoRA over a quantised frozen base (https://arxiv.org/abs/2305.14314), through bitsandbytes."""

    quant: Quant = opt(Quant.nf4, affects="train")
    """Number format of the frozen base while training."""
    double_quant: bool = opt(True, affects="train")
    """Quantise the quantisation constants too (4-bit only)."""
