"""The flattened CPU path against transformers' own loss, row by padded row: same loss, same gradients, nothing leaks between rows."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, Glm4Config, GPT2Config, LlamaConfig, LlamaForCausalLM, PretrainedConfig, Qwen3Config

from tests.lab import tiny_tokenizer
from tuner.data.chat import TokenRow
from tuner.data.store import TokenRows, write_packs, write_rows
from tuner.model import kernels, packed
from tuner.model.batches import padded

# PEFT 0.21 asks for a name that transformers 5.23 deprecates: https://github.com/huggingface/peft/issues (is_activation_checkpointing)
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

VOCAB = 200
ROWS: list[dict[str, list[int]]] = [
    {"input_ids": [5, 6, 7, 8, 9, 10, 11], "labels": [-100, -100, -100, 8, 9, 10, 11]},
    {"input_ids": [50, 51, 52], "labels": [50, 51, 52]},  # its first token is labelled, and nothing predicts it
    {"input_ids": [90, 91, 92, 93, 94], "labels": [-100] * 5},  # nothing to learn
    {"input_ids": [20], "labels": [20]},
    {"input_ids": list(range(100, 137)), "labels": [-100, *range(101, 120), *([-100] * 7), *range(127, 137)]},
]
PROMPT_TUNING = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
NUM_ITEMS = sum(label != -100 for row in ROWS for label in row["labels"][1:])


def tiny(attention: str, *, tied: bool = True, **settings: Any) -> LlamaForCausalLM:
    """A random Llama with grouped heads, the same weights every time."""
    packed.register()
    torch.manual_seed(0)
    sizes = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=VOCAB, tie_word_embeddings=tied, pad_token_id=0, initializer_range=0.2, **sizes, **settings)
    config._attn_implementation = attention
    return LlamaForCausalLM(config).float()


def with_lora(model: LlamaForCausalLM) -> Any:
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=False)
    return get_peft_model(model, config)


def reference(model: nn.Module, num_items: int) -> Tensor:
    """transformers' loss, each row padded to one length and run alone."""
    longest = max(len(row["input_ids"]) for row in ROWS)
    total = torch.zeros(())
    for row in ROWS:
        padding = longest - len(row["input_ids"])
        ids, labels = torch.tensor([row["input_ids"] + [0] * padding]), torch.tensor([row["labels"] + [-100] * padding])
        mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * padding])
        total = total + model(input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=num_items).loss
    return total


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}")


def test_lora_loss_and_gradients_equal_those_of_transformers() -> None:
    plain, fast = with_lora(tiny("sdpa")), with_lora(tiny(packed.ATTENTION))
    expected = reference(plain, NUM_ITEMS)
    loss = packed.forward_loss(fast, packed.flatten(ROWS), NUM_ITEMS)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    found = gradients(fast, loss)
    assert_same(found, gradients(plain, expected))
    assert len(found) == 3 * 7 * 2
    assert all("lora_" in name for name in found), "only the adapter moves, and all of it"


@pytest.mark.parametrize("tied", [True, False])
def test_full_fine_tuning_reaches_embeddings_and_head(tied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(kernels.MAX_LOGITS, "cpu", 7 * VOCAB)  # several chunks, the last one ragged
    plain, fast = tiny("sdpa", tied=tied), tiny(packed.ATTENTION, tied=tied)
    expected = reference(plain, NUM_ITEMS)
    loss = packed.forward_loss(fast, packed.flatten(ROWS), torch.tensor(NUM_ITEMS))
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    found = gradients(fast, loss)
    assert_same(found, gradients(plain, expected))
    assert ("lm_head.weight" in found) is not tied


def test_micro_batches_add_up_to_the_whole_batch() -> None:
    model = with_lora(tiny(packed.ATTENTION))
    whole = gradients(model, packed.forward_loss(model, packed.flatten(ROWS), NUM_ITEMS))
    model.zero_grad()
    for row in ROWS[:-1]:
        (packed.forward_loss(model, packed.flatten([row]), NUM_ITEMS)).backward()
    assert_same(gradients(model, packed.forward_loss(model, packed.flatten(ROWS[-1:]), NUM_ITEMS)), whole)


def test_a_row_does_not_see_its_neighbours() -> None:
    model = tiny(packed.ATTENTION).eval()
    changed = [ROWS[0], {"input_ids": [150, 151, 152], "labels": [-100] * 3}, *ROWS[2:]]

    def hidden(rows: list[dict[str, list[int]]]) -> Tensor:
        batch = packed.flatten(rows)
        del batch["labels"]
        with torch.no_grad():
            output: Tensor = model.base_model(**batch).last_hidden_state[0]
        return output

    before, after = hidden(ROWS), hidden(changed)
    second = slice(7, 10)
    assert not torch.allclose(before[second], after[second])
    before[second], after[second] = 0.0, 0.0
    assert torch.equal(before, after)


SIZES = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
ARCHITECTURES: list[PretrainedConfig] = [
    LlamaConfig(vocab_size=VOCAB, initializer_range=0.2, **SIZES),
    Qwen3Config(vocab_size=VOCAB, initializer_range=0.2, head_dim=8, **SIZES),
    Glm4Config(vocab_size=VOCAB, initializer_range=0.2, head_dim=8, pad_token_id=0, **SIZES),
    GPT2Config(vocab_size=VOCAB, initializer_range=0.2, n_embd=48, n_layer=3, n_head=6, n_positions=64, bos_token_id=0, eos_token_id=0),
]


def of(config: PretrainedConfig, attention: str) -> Any:
    packed.register()
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=attention, dtype=torch.float32).eval()


def packed_logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """[T, V], as `forward_loss` has them."""
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with torch.no_grad():
        hidden = model.base_model(**inputs, attention_mask=torch.empty(1, 1, 0, 0, dtype=torch.bool), use_cache=False).last_hidden_state
        logits: Tensor = model.get_output_embeddings()(hidden)[0]
    return logits


@pytest.mark.parametrize("config", ARCHITECTURES, ids=lambda config: config.model_type)
def test_logits_of_packed_rows_are_those_of_separate_rows(config: PretrainedConfig, tmp_path: Path) -> None:
    """From packs on disk to logits, to 1e-4; and a position that runs on, or a boundary that is lost, would show."""
    rows = [TokenRow(ids=np.asarray(r["input_ids"], np.int32), trained=np.asarray(r["labels"]) >= 0, truncated=False) for r in ROWS]
    write_rows(tmp_path, rows)
    assert len(write_packs(tmp_path, [len(r.ids) for r in rows], 40)) == 2
    model, plain = of(config, packed.ATTENTION), of(config, "sdpa")
    packs = TokenRows(tmp_path)
    batch = packed.flatten([row for index in range(2) for row in packs[index]["rows"]])
    alone = []
    for index in range(2):
        for row in packs[index]["rows"]:
            with torch.no_grad():
                alone.append(plain(input_ids=torch.tensor([row["input_ids"]])).logits[0])
    expected = torch.cat(alone)
    assert expected.abs().max() > 1
    assert (packed_logits(model, batch) - expected).abs().max() < 1e-4
    running_on = batch | {"position_ids": torch.arange(len(expected))[None]}
    whole = batch | {name: torch.tensor([0, len(expected)], dtype=torch.int32) for name in ("cu_seq_lens_q", "cu_seq_lens_k")}
    assert (packed_logits(model, whole) - expected).abs().max() > 0.1
    off = (packed_logits(model, running_on) - expected).abs().max()
    assert off > 0.1 if config.model_type == "gpt2" else off < 1e-3, "rotary positions are relative, learned ones are not"


def test_the_padded_batch_has_the_logits_of_separate_rows_too() -> None:
    """What is trained where padding-free is not possible: padding on either side changes no row."""
    model = of(ARCHITECTURES[0], "sdpa")
    batch = padded(tiny_tokenizer())([{"rows": ROWS[:2]}, {"rows": ROWS[2:]}])
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        for row, mask, found in zip(ROWS, batch["attention_mask"], logits, strict=True):
            expected = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
            assert (found[mask.bool()] - expected).abs().max() < 1e-4


def test_rows_without_labels_give_zero_loss_and_zero_gradients() -> None:
    model = with_lora(tiny(packed.ATTENTION))
    rows = [{"input_ids": [5, 6, 7], "labels": [-100] * 3}, {"input_ids": [8, 9], "labels": [8, -100]}]
    loss = packed.forward_loss(model, packed.flatten(rows), 1)
    assert loss.item() == 0.0
    assert all(not gradient.any() for gradient in gradients(model, loss).values())


def test_the_loss_without_gradients_is_the_same_number() -> None:
    model = with_lora(tiny(packed.ATTENTION))
    batch = packed.flatten(ROWS)
    with torch.no_grad():
        loss = packed.forward_loss(model, batch, NUM_ITEMS)
    assert not loss.requires_grad
    assert loss.item() == packed.forward_loss(model, batch, NUM_ITEMS).item()


def test_flatten_keeps_rows_apart() -> None:
    batch = packed.flatten(ROWS[:2])
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, -100, 8, 9, 10, 11, -100, 51, 52]], "50 is not predicted from 11"
    assert batch["cu_seq_lens_q"].tolist() == [0, 7, 10]
    assert batch["max_length_k"] == 7


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_equals_sdpa(beams: int) -> None:
    prompts = torch.tensor([[0, 0, 0, 7, 8], [11, 12, 13, 14, 15]])  # padded on the left
    settings = {"attention_mask": (prompts != 0).long(), "max_new_tokens": 12, "do_sample": False, "num_beams": beams, "eos_token_id": None}
    expected, found = (tiny(name).eval().generate(prompts, **settings) for name in ("sdpa", packed.ATTENTION))
    assert found.tolist() == expected.tolist()
    assert found.shape == (2, 17)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiny(packed.ATTENTION), None),
        (lambda: with_lora(tiny(packed.ATTENTION)), None),
        (lambda: tiny("sdpa"), "attn_implementation=sdpa"),
        (lambda: tiny(packed.ATTENTION, final_logit_softcapping=30.0), "caps its logits"),
        (lambda: tiny(packed.ATTENTION, sliding_window=128), "sliding window"),
        (lambda: get_peft_model(tiny(packed.ATTENTION, tied=False), LoraConfig(target_modules=["lm_head"])), "its head is"),
        (lambda: get_peft_model(tiny(packed.ATTENTION), PROMPT_TUNING), "prepends tokens"),
        (lambda: nn.Sequential(tiny(packed.ATTENTION)), "wrapped in Sequential"),
    ],
)
def test_supported_names_the_reason(make: Callable[[], nn.Module], reason: str | None) -> None:
    found = packed.supported(make())
    assert found is None if reason is None else reason in str(found)
