"""`task: fill_mask`: hidden words are found, always the same ones when measured; what is saved loads in plain Transformers and PEFT."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForMaskedLM, AutoTokenizer

from tests.lab import Lab, task_of, train
from tests.tasks import cards, labs
from tests.tasks.test_classify import tune
from tuner.data.splits import held_out
from tuner.errors import TuneError
from tuner.eval.scores import summary
from tuner.model.masking import chosen_of, hidden
from tuner.runs import read_json

SENTENCE = "the very good film with the cold day"


def lab_of(folder: Path) -> Lab:
    """Texts of one sentence, cut here and there: a word tells the others."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        return {"text": " ".join(SENTENCE.split()[: 6 + index % 3])}

    return labs.make(folder, "fill_mask", row)


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = lab_of(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=10", "adapter=full") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["tuned"]["masked_accuracy"] > 0.8 > found["base"]["masked_accuracy"] + 0.3
    assert "pipeline_tag: fill-mask" in (folder / "README.md").read_text(encoding="utf-8")
    filled = cards.printed(folder, {'f"… {model.tokenizer.mask_token} …"': "'the very [MASK] film with'"})
    assert filled.index("'good'") < 120
    capsys.readouterr()
    assert tune(lab, "try", "small", "the very [MASK] film with", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said[0]["label"] == "good"
    assert len(said) == 5


def test_an_adapter_loads_in_plain_peft_and_the_base_stays(tmp_path: Path) -> None:
    run = lab_of(tmp_path).run("trainer.max_steps=3", "trainer.save_steps=0")
    train(run)
    tokenizer, ours = AutoTokenizer.from_pretrained(run.folder), task_of(run).load(run, tuned=run.folder)
    base: Any = AutoModelForMaskedLM.from_pretrained(labs.encoder())
    inputs = tokenizer("the [MASK] film", return_tensors="pt")
    with torch.no_grad():
        before = base(**inputs).logits
        plain = PeftModel.from_pretrained(base, str(run.folder)).eval()(**inputs).logits
        assert torch.allclose(plain, ours(**inputs).logits, atol=1e-6)
        assert not torch.allclose(plain, before, atol=1e-4)
    rows = task_of(run).score(run, ours, held_out(run))
    again = task_of(run).score(run, ours, held_out(run))
    assert [r.prompt for r in rows] == [r.prompt for r in again]
    found = summary(rows, task_of(run).formulas(run))
    right = sum(a == b for r in rows for a, b in zip(r.answer.split(), r.reference.split(), strict=False))
    assert found["masked_accuracy"] == pytest.approx(right / sum(r.tokens for r in rows), abs=0.1)


def test_the_share_that_is_hidden_and_what_becomes_of_it() -> None:
    """15 % of what may be hidden; of these 80 % masked and about 10 % others; nothing else is touched."""
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    ids = torch.randint(5, len(tokenizer), (50, 102))
    labels = ids.clone()
    labels[:, [0, -1]] = -100
    batch = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
    for fixed in (True, False):
        found = hidden(batch, tokenizer, 0.15, fixed=fixed)
        there = found["labels"] != -100
        assert there.sum(1).tolist() == chosen_of(labels, 0.15).tolist() == [15] * 50
        assert torch.equal(found["input_ids"][~there], ids[~there])
        assert torch.equal(found["labels"][there], ids[there])
        share = float((found["input_ids"][there] == tokenizer.mask_token_id).float().mean())
        assert 0.74 < share < 0.87
    one = {name: value[3:4] for name, value in batch.items()}
    alone, beside = hidden(one, tokenizer, 0.15, fixed=True), hidden(batch, tokenizer, 0.15, fixed=True)
    assert torch.equal(alone["input_ids"][0], beside["input_ids"][3])


def test_rows_that_are_no_texts_are_refused(tmp_path: Path) -> None:
    run = labs.classes(tmp_path).run("task=fill_mask")
    with pytest.raises(TuneError, match="learns from texts"):
        train(run)
