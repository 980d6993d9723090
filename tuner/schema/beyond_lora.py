"""Adapters other than LoRA and its kin: scales, rotations, norms, vectors before the text. `adapter: ia3`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tuner.registry import kind
from tuner.schema.adapter import Beside, Excluding, Modules
from tuner.schema.base import opt


@kind("adapter", "ia3")
@dataclass(kw_only=True)
class IA3(Excluding):
    """Learned factors on keys, values and MLP inputs (https://arxiv.org/abs/2205.05638): the fewest parameters."""

    label: ClassVar[str] = "IA³"
    config: ClassVar[str] = "IA3Config"

    target_modules: Any = opt(None, affects="train", accepts="str | list[str] | null")
    """Modules whose outputs are scaled; `null`: what PEFT takes for the model's architecture."""
    feedforward_modules: Any = opt(None, affects="train", accepts="str | list[str] | null")
    """Of these, those whose inputs are scaled instead: the MLP's last."""


@kind("adapter", "vera")
@dataclass(kw_only=True)
class Vera(Modules):
    """LoRA with frozen random matrices that all layers share; only scales are trained (https://arxiv.org/abs/2310.11454)."""

    label: ClassVar[str] = "VeRA"
    config: ClassVar[str] = "VeraConfig"

    r: int = opt(256, affects="train", ge=1)
    """Rank of the shared matrices."""
    vera_dropout: float = opt(0.0, affects="train", ge=0, lt=1)
    """Dropout on the adapter's input."""
    d_initial: float = opt(0.1, affects="train", gt=0)
    """Where the trained scales start."""
    projection_prng_key: int = opt(0, affects="train", ge=0)
    """Seed of the shared matrices."""


@kind("adapter", "oft")
@dataclass(kw_only=True)
class OFT(Excluding):
    """Orthogonal fine-tuning: weights are rotated in blocks (https://arxiv.org/abs/2306.07280)."""

    label: ClassVar[str] = "OFT"
    config: ClassVar[str] = "OFTConfig"

    oft_block_size: int = opt(32, affects="train", ge=2)
    """Size of a block; it divides every target's inputs."""
    coft: bool = opt(False, affects="train")
    """Keep the rotation near the identity."""
    eps: float = opt(6e-5, affects="train", gt=0)
    """How near, under `coft`."""


@kind("adapter", "boft")
@dataclass(kw_only=True)
class BOFT(Excluding):
    """Orthogonal fine-tuning by butterfly factors (https://arxiv.org/abs/2311.06243)."""

    label: ClassVar[str] = "BOFT"
    config: ClassVar[str] = "BOFTConfig"

    boft_block_size: int = opt(4, affects="train", ge=2)
    """Size of a block; it divides every target's inputs."""
    boft_n_butterfly_factor: int = opt(1, affects="train", ge=1)
    """Butterfly factors."""
    boft_dropout: float = opt(0.0, affects="train", ge=0, lt=1)
    """Share of blocks left out in a step."""


@kind("adapter", "layernorm")
@dataclass(kw_only=True)
class LayerNorm(Excluding):
    """Only the normalisation layers are trained (https://arxiv.org/abs/2312.11420)."""

    label: ClassVar[str] = "norm tuning"
    config: ClassVar[str] = "LNTuningConfig"

    target_modules: Any = opt(None, affects="train", accepts="str | list[str] | null")
    """The layers; `null`: what PEFT takes for the model's architecture."""


@dataclass(kw_only=True)
class Virtual(Beside):
    """Adapters that put learned vectors before the text; training pads."""

    num_virtual_tokens: int = opt(20, affects="train", ge=1)
    """How many."""


@kind("adapter", "prompt")
@dataclass(kw_only=True)
class Prompt(Virtual):
    """Prompt tuning: learned vectors before the first token (https://arxiv.org/abs/2104.08691)."""

    label: ClassVar[str] = "prompt tuning"
    config: ClassVar[str] = "PromptTuningConfig"

    prompt_tuning_init_text: str | None = opt(None, affects="train")
    """Start from the embeddings of this text, repeated or cut to the number of vectors; default: from random ones."""


@kind("adapter", "prefix")
@dataclass(kw_only=True)
class Prefix(Virtual):
    """Prefix tuning: learned keys and values before the text in every layer (https://arxiv.org/abs/2101.00190)."""

    label: ClassVar[str] = "prefix tuning"
    config: ClassVar[str] = "PrefixTuningConfig"

    prefix_projection: bool = opt(False, affects="train")
    """Make them by a small network, which is thrown away after training."""
    encoder_hidden_size: int | None = opt(None, affects="train", ge=1)
    """Width of that network; default: the model's."""


@kind("adapter", "p_tuning")
@dataclass(kw_only=True)
class PTuning(Virtual):
    """P-tuning: vectors before the text, made by a small network (https://arxiv.org/abs/2103.10385)."""

    label: ClassVar[str] = "p-tuning"
    config: ClassVar[str] = "PromptEncoderConfig"

    encoder_hidden_size: int | None = opt(None, affects="train", ge=1)
    """Width of that network; default: the model's."""
