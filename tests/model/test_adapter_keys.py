"""Every key of every adapter does something: the model that it gives is another one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

from tests.lab import Lab, losses_of, make_lab, train
from tuner.model.adapt import OURS, quantization, wrap
from tuner.registry import kinds
from tuner.schema.adapter import Adapter, QLora
from tuner.schema.recipe import section_class

# Variant, key -> another value, and what must be set besides for the key to matter.
OTHER: dict[str, tuple[Any, dict[str, Any]]] = {
    "target_modules": (["q_proj"], {}),
    "exclude_modules": (["k_proj"], {}),
    "modules_to_save": (["lm_head"], {}),
    "lora_alpha": (7, {}),
    "lora_dropout": (0.5, {}),
    "layers_to_transform": ([1], {}),
    "r": (3, {}),
    "bias": ("all", {}),
    "use_rslora": (True, {}),
    "use_dora": (True, {}),
    "rank_pattern": ({"q_proj": 2}, {}),
    "alpha_pattern": ({"q_proj": 3}, {}),
    "init_lora_weights": ("gaussian", {}),
    "init_r": (5, {}),
    "feedforward_modules": (["k_proj"], {}),
    "vera_dropout": (0.5, {}),
    "d_initial": (0.7, {}),
    "projection_prng_key": (9, {}),
    "oft_block_size": (4, {}),
    "coft": (True, {}),
    "eps": (1.0, {"coft": True}),
    "boft_block_size": (8, {}),
    "boft_dropout": (0.9, {}),
    "num_virtual_tokens": (3, {}),
    "prefix_projection": (True, {}),
    "encoder_hidden_size": (5, {"prefix_projection": True}),
}
ELSEWHERE = {  # key -> why it is no part of a model before it is trained, and where it is tested
    *OURS,
    *("target_r", "tinit", "tfinal", "deltaT", "orth_reg_weight"),  # below
    *("boft_n_butterfly_factor", "prompt_tuning_init_text"),  # test_adapters.py
}
KEYS = [
    (name, spec.name)
    for name, cls in sorted(kinds("adapter").items())
    if cls.config  # type: ignore[attr-defined]
    for spec in dataclasses.fields(cls)
    if spec.name not in ELSEWHERE
]


def made(name: str, **values: Any) -> list[torch.Tensor]:
    """Sizes and values of what is trained, and logits in training, of a model whose adapter was moved away from doing nothing."""
    set_seed(0)
    size: dict[str, Any] = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    base = LlamaForCausalLM(LlamaConfig(**size, num_key_value_heads=2, attention_bias=True))
    adapter: Any = section_class("adapter", name)(**values)
    for spec in dataclasses.fields(adapter):
        hint = type(getattr(section_class("adapter", name)(), spec.name))
        if spec.name in values and hasattr(hint, "__members__"):
            setattr(adapter, spec.name, hint[values[spec.name]])
    set_seed(1)
    model = wrap(base, adapter)
    draw = torch.Generator().manual_seed(2)
    trained = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in trained]
    with torch.no_grad():
        for parameter in trained:
            parameter += 0.3 * torch.randn(parameter.shape, generator=draw)
    set_seed(3)
    logits = model.train()(input_ids=torch.arange(10)[None]).logits.detach()
    return [*start, logits]


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings=True.:UserWarning")
@pytest.mark.parametrize(("name", "key"), KEYS)
def test_a_key_gives_another_model(name: str, key: str) -> None:
    value, besides = OTHER[key]
    besides = besides if name in ("prefix", "oft") else {}
    if name == "layernorm" and key in ("target_modules", "exclude_modules"):
        value = ["input_layernorm"]
    if name == "ia3" and key == "target_modules":
        value = ["k_proj", "down_proj"]
    if name == "oft":
        besides = {"oft_block_size": 8} | besides
    before, after = made(name, **besides), made(name, **(besides | {key: value}))
    same = len(before) == len(after) and all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(before, after, strict=False))
    assert not same


def test_the_same_keys_give_the_same_model() -> None:
    """Else the test above could not fail."""
    for name in sorted({name for name, _ in KEYS}):
        more = {"oft_block_size": 8} if name == "oft" else {}
        assert all(torch.equal(a, b) for a, b in zip(made(name, **more), made(name, **more), strict=True)), name


def test_a_field_that_peft_does_not_know_is_no_secret() -> None:
    @dataclasses.dataclass(kw_only=True)
    class Odd(section_class("adapter", "vera")):  # type: ignore[misc]
        nobodys: int = 1

    with pytest.raises(TypeError, match="nobodys"):
        wrap(LlamaForCausalLM(LlamaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)), Odd())


@pytest.mark.parametrize("quant", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_how_the_base_is_quantised_is_what_was_asked_for(quant: str, double: bool) -> None:
    adapter: Adapter = QLora(quant=type(QLora().quant)[quant], double_quant=double)
    found: Any = quantization(adapter, torch.bfloat16)
    assert (found.bnb_4bit_quant_type, found.bnb_4bit_use_double_quant) == (quant, double)


@pytest.mark.parametrize("change", ["target_r=1", "tinit=3", "tfinal=3", "deltaT=3", "orth_reg_weight=0"])
def test_adalora_s_keys_of_training_change_the_training(tmp_path: Any, change: str) -> None:
    lab: Lab = make_lab(tmp_path)
    choice = ("adapter=adalora", "adapter.init_r=6", "adapter.target_r=3", "adapter.tinit=1", "adapter.tfinal=1", "trainer.max_steps=8")
    found = []
    for name, more in (("plain", []), ("other", [f"adapter.{change}"])):
        run = lab.run(*choice, *more, f"name={name}")
        train(run)
        found.append(losses_of(run.folder))
    assert found[0] != found[1]
