"""The serving path: an answer does not depend on its neighbours in a batch, and ends where the template ends a turn."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.lab import tiny_model, tiny_tokenizer
from tuner.data.chat import prompt_ids
from tuner.eval.generate import answers, sampled
from tuner.eval.scores import Scored
from tuner.model import packed
from tuner.model.generation import settings, stop_ids
from tuner.schema.eval import Eval

TEXTS = ("hi", "a much longer question than the others, really", "?", "two words", "", "ö😀")
TALKS = [[{"role": "user", "content": text}] for text in TEXTS]


def rows(talks: list[list[dict[str, str]]]) -> list[Scored]:
    return [Scored(prompt=talk, reference="") for talk in talks]


@pytest.fixture(scope="module")
def model() -> Any:
    """The tiny model with sharper weights: its answers differ from one question to the next."""
    loaded = AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.parameters():
            parameter += torch.randn_like(parameter) * 0.15
    return loaded


def by_hand(model: Any, talk: list[dict[str, str]], length: int) -> str:
    """Greedy decoding without cache, batch or padding."""
    tokenizer = tiny_tokenizer()
    ids = prompt_ids(talk, tokenizer)
    start = len(ids)
    with torch.inference_mode():
        while len(ids) - start < length:
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in stop_ids(tokenizer):
                break
            ids.append(token)
    return str(tokenizer.decode(ids[start:], skip_special_tokens=True)).strip()


def test_sampled_answers_hang_on_seed_and_row_alone(model: Any) -> None:
    """Not on what was drawn before, nor on other rows; what draws after it is left as it was."""
    wanted = Eval(temperature=1.0, num_samples=3, max_new_tokens=8)
    state = torch.random.get_rng_state()
    found = sampled(model, tiny_tokenizer(), rows(TALKS), wanted=wanted, seed=0)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(3)
    assert sampled(model, tiny_tokenizer(), rows(TALKS)[:2], wanted=wanted, seed=0) == found[:2]
    assert sampled(model, tiny_tokenizer(), rows(TALKS), wanted=wanted, seed=1) != found
    assert all(len(texts) == 3 for texts in found)
    assert any(len(set(texts)) > 1 for texts in found)
    cold = Eval(temperature=1e-4, num_samples=2, max_new_tokens=8)
    greedy = [by_hand(model, talk, 8) for talk in TALKS]
    assert sampled(model, tiny_tokenizer(), rows(TALKS), wanted=cold, seed=0) == [[text, text] for text in greedy]
    narrow = Eval(temperature=1.0, top_p=1e-6, num_samples=2, max_new_tokens=8)
    assert sampled(model, tiny_tokenizer(), rows(TALKS), wanted=narrow, seed=0) == [[text, text] for text in greedy]


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_answers_are_those_of_plain_greedy_decoding(model: Any, batch_size: int) -> None:
    done: list[int] = []
    found = answers(model, tiny_tokenizer(), rows(TALKS), max_new_tokens=12, batch_size=batch_size, tick=done.append)
    assert found == [by_hand(model, talk, 12) for talk in TALKS]
    assert len(set(found)) >= 4, "the test would not see answers in the wrong order"
    assert done == sorted(done)
    assert done[-1] == len(TALKS)


def test_the_packed_attention_answers_the_same(model: Any) -> None:
    expected = answers(model, tiny_tokenizer(), rows(TALKS), max_new_tokens=12, batch_size=4)
    packed.register()
    model.set_attn_implementation(packed.ATTENTION)
    try:
        assert answers(model, tiny_tokenizer(), rows(TALKS), max_new_tokens=12, batch_size=4) == expected
    finally:
        model.set_attn_implementation("sdpa")


class Scripted(torch.nn.Module):
    """Generates what it is told: the arguments of `generate` are what is looked at."""

    device = torch.device("cpu")

    def generate(self, *, input_ids: torch.Tensor, attention_mask: torch.Tensor, generation_config: Any) -> torch.Tensor:
        self.config = generation_config
        self.ids, self.mask = input_ids, attention_mask
        tail = torch.tensor([tiny_tokenizer()("ok<|im_end|>")["input_ids"] + [1, 1]] * len(input_ids))
        return torch.cat([input_ids, tail], dim=1)


def test_padding_is_on_the_left_and_masked_and_marks_are_not_in_the_answer() -> None:
    model = Scripted()
    assert answers(model, tiny_tokenizer(), rows(TALKS[:3]), max_new_tokens=5, batch_size=3) == ["ok"] * 3
    lengths = sorted((len(prompt_ids(t, tiny_tokenizer())) for t in TALKS[:3]), reverse=True)
    assert model.mask.sum(1).tolist() == lengths
    assert bool((model.mask.diff(dim=1) >= 0).all()), "zeros first, then ones"
    assert model.config.max_new_tokens == 5
    assert model.config.do_sample is False


def test_generation_stops_at_the_end_of_turn(model: Any) -> None:
    """A model that always answers `<|im_end|>` gives an empty text, not twelve marks."""
    found = AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32).eval()
    head = found.get_output_embeddings()

    class AlwaysEnd(torch.nn.Module):
        weight = head.weight

        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(*hidden.shape[:-1], head.weight.shape[0])
            logits[..., 1] = 9.0
            return logits

    found.set_output_embeddings(AlwaysEnd())
    found.lm_head = AlwaysEnd()
    assert answers(found, tiny_tokenizer(), rows(TALKS[:2]), max_new_tokens=12, batch_size=2) == ["", ""]


def test_stop_ids_are_the_tokenizers_end_and_the_templates() -> None:
    assert stop_ids(tiny_tokenizer()) == [1]
    base = AutoTokenizer.from_pretrained(str(tiny_model()))
    base.eos_token = "!"
    assert stop_ids(base) == sorted({1, base.convert_tokens_to_ids("!")})
    base.chat_template = "{% for m in messages %}{{ m['content'] + ' STOP\n' }}{% endfor %}"
    assert stop_ids(base) == [base.convert_tokens_to_ids("!")], "four byte tokens are no stop id"
    assert settings(tiny_tokenizer()).eos_token_id == [1]
