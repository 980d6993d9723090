"""`task: pretrain`: texts in full rows, blind to each other; a tiny Llama learns from nothing; what is saved loads in Transformers."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.lab import Lab, make_lab, task_of, tiny_model, tiny_tokenizer, train, weights_of
from tests.tasks import cards
from tuner import cli
from tuner.data.documents import pieces, write
from tuner.data.store import TokenRows
from tuner.errors import TuneError
from tuner.estimate import estimate, longest
from tuner.pipeline import execute
from tuner.runs import read_json

RECIPE = """\
# small — a test
defaults: [{task: pretrain}, {adapter: full}]
model: {id: MODEL, dtype: float32, init: random}
task: {max_length: 32}
data: {path: FOLDER/train.txt, eval_path: FOLDER/eval.txt}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 0}
hardware: {device: cpu}
"""


def lab_of(folder: Path) -> Lab:
    """Lines of one saying, some shorter than a row and some longer."""
    lab = make_lab(folder, recipe=RECIPE)
    for name, count in (("train", 60), ("eval", 6)):
        lines = ["the cat sat. " * (1 + index % 4) for index in range(count)]
        (folder / f"{name}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return lab


def test_a_model_learns_from_nothing_and_goes_on_with_a_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = lab_of(tmp_path / "lab")
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.num_train_epochs=8"]) == 0
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        found = read_json(folder / "metrics.json")
        assert found["base"]["perplexity"] > 100 > 5 > found["tuned"]["perplexity"]
        plain = AutoModelForCausalLM.from_pretrained(folder)
        assert all(torch.equal(weight, plain.state_dict()[name]) for name, weight in weights_of(folder, "model.safetensors").items())
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "pipeline_tag: text-generation" in card
        assert "apply_chat_template" not in card
        assert cards.printed(folder, {"…": "the cat", "max_new_tokens=64": "max_new_tokens=4"}).startswith("the cat")
        capsys.readouterr()
        assert cli.main(["try", "small", "the cat", "max_new_tokens=4", "--json"]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert said["tuned"]
        assert set(said["tuned"]) <= set("the cat sat. "), "it writes what its texts are made of"


def test_rows_are_full_and_hold_every_text_once(tmp_path: Path) -> None:
    texts, tokenizer = ["abc" * n for n in (1, 9, 30, 2)], tiny_tokenizer()
    rows = list(pieces(texts, tokenizer, 16))
    count = write(tmp_path, rows, 16)
    found = TokenRows(tmp_path)
    lengths = [sum(len(row["input_ids"]) for row in found[i]["rows"]) for i in range(len(found))]
    assert len(found) == count
    assert set(lengths[:-1]) == {16}
    assert tokenizer.decode(np.concatenate([row.ids for row in rows]).tolist()) == "".join(f"{text}<|im_end|>" for text in texts)
    assert len(found[0]["rows"]) == 2, "the second text does not see the first"


def test_a_plan_counts_full_rows_once_they_are_there(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    execute(lab.run(), only=("prepare",))
    plan = lab.plan()
    tokens = sum(13 * (1 + index % 4) + 1 for index in range(60))
    found = estimate(plan)
    assert (found.exact, found.rows, found.steps) == (True, 63, 8)
    assert 62 < tokens / 32 <= 63
    assert found.tokens == round(tokens * 64 / 63), "eight steps of eight rows"
    assert longest(plan) == 32, "a row is full, though a piece may be short"
    about = read_json(Path(plan.stage("prepare").folder) / "data.json")
    assert about["train"]["rows"] == 60, "texts, though some lie in two rows"


def test_weights_by_chance_are_the_same_each_time_and_need_full_training(tmp_path: Path) -> None:
    lab = lab_of(tmp_path / "lab")
    bare = shutil.copytree(tiny_model(), tmp_path / "bare")  # configuration and tokenizer
    (bare / "model.safetensors").unlink()
    run = lab.run("trainer.max_steps=2", f"model.id={bare}")
    torch.manual_seed(5)
    first, second = task_of(run).load(run), task_of(run).load(run, trainable=True)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(TuneError, match="adapter over weights by chance"):
        lab.plan("adapter=lora")
    frozen = lab.run("model.init=pretrained", "adapter=lora", "trainer.max_steps=2")
    train(frozen)
    assert all("lora" in name for name in weights_of(frozen.folder))
