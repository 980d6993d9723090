"""`model.add_tokens`: one token each, trained with the adapter, saved, and loaded by plain PEFT and Transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from tests.lab import Lab, losses_of, make_lab, task_of, tiny_model, train, weights_of
from tests.train.test_training import moved, trained_model
from tuner.errors import TuneError
from tuner.pipeline import execute
from tuner.runs import read_json

ADD = "model.add_tokens=['<call>','</call>']"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = make_lab(tmp_path, held_out=3)
    for name in ("train.jsonl", "eval.jsonl"):
        lines = [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for line in lines:
            line["messages"][-1]["content"] = f"<call>{line['messages'][-1]['content']}</call>"
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lab


@pytest.mark.parametrize("tied", [True, False])
def test_lora_trains_the_new_rows_alone_and_plain_peft_loads_them(lab: Lab, tmp_path: Path, tied: bool) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(str(tiny_model()))
    model.config.tie_word_embeddings = tied
    base = LlamaForCausalLM(model.config)
    base.save_pretrained(str(tmp_path / "base"))
    AutoTokenizer.from_pretrained(str(tiny_model())).save_pretrained(str(tmp_path / "base"))
    run, before, trained = trained_model(lab, f"model.id={tmp_path / 'base'}", ADD, "trainer.max_steps=4", "hub=none")
    changed = moved(before, trained)
    assert changed == {n for n in before if "lora_" in n or "trainable_tokens_delta" in n}
    assert sum("trainable_tokens_delta" in n for n in changed) == (1 if tied else 2)
    tokenizer = AutoTokenizer.from_pretrained(str(run.folder))
    assert len(tokenizer("<call>", add_special_tokens=False)["input_ids"]) == 1
    ids = torch.tensor([tokenizer("<call>x</call>")["input_ids"]])
    plain: Any = AutoModelForCausalLM.from_pretrained(str(tmp_path / "base"), dtype=torch.float32)
    plain.resize_token_embeddings(len(tokenizer))
    ends = {name: len(value) for name, value in weights_of(run.folder).items() if "embed" in name or "lm_head" in name}
    assert [rows for name, rows in ends.items() if "lora" not in name] == [2] * (1 if tied else 2), "the rows alone"
    with torch.inference_mode():
        expected = trained.eval()(ids).logits
        of_itself = AutoPeftModelForCausalLM.from_pretrained(str(run.folder), dtype=torch.float32)
        for loaded in (PeftModel.from_pretrained(plain, str(run.folder)), of_itself):
            torch.testing.assert_close(loaded.eval()(ids).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "full", "qlora"])
def test_a_whole_run_with_new_tokens(lab: Lab, adapter: str) -> None:
    """Its proof on load passes, the base is measured with the tokens too, and each is one token of the rows."""
    run = lab.run(ADD, f"adapter={adapter}", "trainer.max_steps=8", "eval.max_new_tokens=4")
    run.plan.write(run.folder / "plan.json")
    execute(run)
    metrics = read_json(run.folder / "metrics.json")
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"]
    assert losses_of(run.folder)[-1] < losses_of(run.folder)[0]
    if adapter == "full":
        assert weights_of(run.folder, "model.safetensors")["model.embed_tokens.weight"].shape[0] == 260
    again: Any = task_of(run).load(run)
    rows = again.get_input_embeddings().weight
    torch.testing.assert_close(rows[258], rows[:258].mean(0))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.add_tokens=['<|im_start|>']"], "is a token of this model already"),
        (["model.add_tokens=['<a>','<a>']"], "stands twice"),
    ],
)
def test_tokens_that_are_there_are_an_error(lab: Lab, overrides: list[str], message: str) -> None:
    with pytest.raises(TuneError, match=message):
        train(lab.run(*overrides))


@pytest.mark.parametrize("adapter", ["ia3", "prompt", "pissa"])
def test_adapters_that_train_no_embeddings_are_refused(lab: Lab, adapter: str) -> None:
    with pytest.raises(TuneError, match=r"new tokens|trains no embeddings"):
        lab.plan(ADD, f"adapter={adapter}")
