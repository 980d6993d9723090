"""The `adapter:` section: which parameters are trained. `adapter: lora`, then `adapter: {r: 32}`.

Fields are named as PEFT's configurations name them, and are handed to the one named by `config` as they are.
"""

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


class Init(StrEnum):
    """Where LoRA's matrices start."""

    default = "default"
    gaussian = "gaussian"
    orthogonal = "orthogonal"
    pissa = "pissa"
    pissa_niter_16 = "pissa_niter_16"
    olora = "olora"
    eva = "eva"
    loftq = "loftq"


MOVES_THE_BASE = (Init.pissa, Init.pissa_niter_16, Init.olora, Init.loftq)  # these take a part out of the base's weights


@dataclass(kw_only=True)
class Adapter(Section):
    """What every adapter has."""

    impl: ClassVar[str] = "tuner.model.adapt"
    variant_affects: ClassVar[str] = "train"
    label: ClassVar[str] = ""
    """What it is called in reports."""
    config: ClassVar[str] = ""
    """The class of `peft` that its fields are for."""


@kind("adapter", "full")
@dataclass(kw_only=True)
class Full(Adapter):
    """Full fine-tuning: every parameter is trained, in fp32 under autocast, and saved in `model.dtype`."""

    label: ClassVar[str] = "full fine-tuning"

    unfreeze: list[str] = opt(factory=list, affects="train")
    """Train only parameters in whose name one of these regular expressions is found: `[lm_head, "layers\\.2[0-9]\\."]`. None: all."""
    freeze: list[str] = opt(factory=list, affects="train")
    """Do not train parameters in whose name one of these is found: `[embed_tokens]`."""


@dataclass(kw_only=True)
class Beside(Adapter):
    """Adapters that are saved without the base."""

    continue_from: str | None = opt(None, content="train")
    """Go on from a saved adapter of the same kind and base: `run:NAME`, or a folder that PEFT wrote. Optimizer and schedule start anew."""


@dataclass(kw_only=True)
class Modules(Beside):
    """Adapters that stand beside modules of the base."""

    target_modules: Any = opt("all-linear", affects="train", accepts="str | list[str] | null")
    """`all-linear`, a regular expression, or a list of module names; `null`: what PEFT takes for the model's architecture."""
    modules_to_save: list[str] = opt(factory=list, affects="train")
    """Modules trained in full and saved with the adapter."""


@dataclass(kw_only=True)
class Excluding(Modules):
    """Those of them that can leave modules out."""

    exclude_modules: Any = opt(None, affects="train", accepts="str | list[str] | null")
    """Of the targets, modules to leave out: a regular expression, or a list of names."""


@dataclass(kw_only=True)
class LowRank(Excluding):
    """What LoRA and its kin have."""

    lora_alpha: int = opt(32, affects="train", ge=1)
    """Scale: the update is multiplied by `lora_alpha / r`."""
    lora_dropout: float = opt(0.0, affects="train", ge=0, lt=1)
    """Dropout on the adapter's input."""
    layers_to_transform: list[int] | None = opt(None, affects="train")
    """Only these blocks of the model, counted from 0."""


@kind("adapter", "lora")
@dataclass(kw_only=True)
class Lora(LowRank):
    """Low-rank adaptation (https://arxiv.org/abs/2106.09685): the base is frozen, small matrices beside it are trained."""

    label: ClassVar[str] = "LoRA"
    config: ClassVar[str] = "LoraConfig"

    r: int = opt(16, affects="train", ge=1)
    """Rank of the update."""
    bias: Bias = opt(Bias.none, affects="train")
    """Which biases are trained."""
    use_rslora: bool = opt(False, affects="train")
    """Scale by `lora_alpha / sqrt(r)` (https://arxiv.org/abs/2312.03732)."""
    use_dora: bool = opt(False, affects="train")
    """Weight-decomposed update, DoRA (https://arxiv.org/abs/2402.09353)."""
    rank_pattern: dict[str, int] = opt(factory=dict, affects="train")
    """Another rank for modules with these names (or regular expressions): `{down_proj: 32}`."""
    alpha_pattern: dict[str, int] = opt(factory=dict, affects="train")
    """Another `lora_alpha` for modules with these names."""
    init_lora_weights: Init = opt(Init.default, affects="train")
    """Where the matrices start; what changes the base to start there is saved as an adapter for the unchanged base, of rank 2 r."""
    loraplus_lr_ratio: float | None = opt(None, affects="train", ge=1)
    """LoRA+ (https://arxiv.org/abs/2402.12354): the second matrix learns so many times faster than the first."""


@kind("adapter", "qlora")
@dataclass(kw_only=True)
class QLora(Lora):
    """LoRA over a quantised frozen base (https://arxiv.org/abs/2305.14314), through bitsandbytes."""

    label: ClassVar[str] = "QLoRA"

    quant: Quant = opt(Quant.nf4, affects="train")
    """Number format of the frozen base while training."""
    double_quant: bool = opt(True, affects="train")
    """Quantise the quantisation constants too (4-bit only)."""


@kind("adapter", "adalora")
@dataclass(kw_only=True)
class AdaLora(LowRank):
    """LoRA that moves rank to where it matters while training (https://arxiv.org/abs/2303.10512)."""

    label: ClassVar[str] = "AdaLoRA"
    config: ClassVar[str] = "AdaLoraConfig"

    init_r: int = opt(12, affects="train", ge=1)
    """Rank of each update at the start."""
    target_r: int = opt(8, affects="train", ge=1)
    """Mean rank at the end."""
    tinit: int | None = opt(None, affects="train", ge=0)
    """Steps before ranks are cut; default: a tenth of all."""
    tfinal: int | None = opt(None, affects="train", ge=0)
    """Steps at the end with the final ranks; default: three tenths of all."""
    deltaT: int = opt(1, affects="train", ge=1)
    """Steps between two allocations."""
    orth_reg_weight: float = opt(0.5, affects="train", ge=0)
    """Weight of the term that keeps the factors orthogonal."""
