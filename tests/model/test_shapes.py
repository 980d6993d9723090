"""Shapes written in `conf/model/` count as many parameters as Transformers' own models of those sizes have."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedConfig, Qwen3Config, Qwen3ForCausalLM

from tests.conftest import ROOT
from tuner.dimensions import parameters

MODELS: dict[str, tuple[Any, PreTrainedConfig]] = {
    "gpt2": (GPT2LMHeadModel, GPT2Config()),
    "bert-base": (BertModel, BertConfig()),
}


def shape_of(name: str) -> dict[str, Any]:
    """The shape as the file has it."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "tuner/conf/model" / f"{name}.yaml").read_text(encoding="utf-8"))["shape"]
    return {"tie_word_embeddings": False} | found


def count(model: Any, config: PreTrainedConfig) -> int:
    """Parameters of a model without weights."""
    with torch.device("meta"):
        return int(model(config).num_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_a_gate(name: str) -> None:
    assert parameters(shape_of(name)) == pytest.approx(count(*MODELS[name]), rel=0.02)  # positions and biases are not counted


@pytest.mark.parametrize("name", ["qwen3-0.6b", "qwen3-4b"])
def test_a_model_whose_heads_have_a_width_of_their_own(name: str) -> None:
    shape = shape_of(name)
    assert parameters(shape) == pytest.approx(count(Qwen3ForCausalLM, Qwen3Config(**shape)), rel=0.001)
