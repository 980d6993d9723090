"""`eval.general`: what is forgotten is the plain loss of other texts, of base and tuned, in the table and under the gate."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.lab import Lab, make_lab
from tests.tasks import labs
from tuner import cli
from tuner.errors import TuneError
from tuner.eval import forgetting
from tuner.eval.scores import Scored
from tuner.files import SHIPPED_DATA
from tuner.runs import read_json

TEXTS = ["Water boils at a hundred degrees.", "for i in range(10):\n    print(i)"]


def tune(lab: Lab, *args: str) -> int:
    with contextlib.chdir(lab.folder):
        return cli.main([*args])


def write(lab: Lab, texts: list[str]) -> None:
    (lab.folder / "other.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def plain_loss(model: Path, texts: list[str]) -> float:
    """Nats a token, by Transformers alone, text for text."""
    tokenizer, loaded = AutoTokenizer.from_pretrained(model), AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    total, count = 0.0, 0
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += float(loaded(input_ids=ids, labels=ids).loss) * (ids.shape[1] - 1)
        count += ids.shape[1] - 1
    return total / count


def test_it_is_the_plain_loss_of_both_and_stands_under_the_gate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(tmp_path)
    write(lab, TEXTS)
    base = Path(lab.plan().recipe["model"]["id"])
    small = ["recipe=small", "launcher=inline", "adapter=full", "eval.generate=false", "eval.general=other.jsonl"]
    assert tune(lab, *small, "eval.gate=['general_loss < 0.1']") == 3
    said = capsys.readouterr()
    assert "\ngeneral_loss " in said.out
    assert "`general_loss < 0.1` does not hold" in said.err
    (run,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(run / "metrics.json")
    assert found["base"]["general_loss"] == pytest.approx(plain_loss(base, TEXTS), rel=1e-4)
    assert found["tuned"]["general_loss"] == pytest.approx(plain_loss(run, TEXTS), rel=1e-4)
    assert found["tuned"]["general_loss"] != pytest.approx(found["base"]["general_loss"], rel=1e-4)
    low, high = found["intervals"]["general_loss"]
    assert low <= found["tuned"]["general_loss"] - found["base"]["general_loss"] <= high
    assert found["rows"] == 8, "held-out rows are counted, not these"
    assert "other.jsonl" in (run / "recipe.yaml").read_text()

    before = {stage["name"]: stage["key"] for stage in read_json(run / "plan.json")["stages"]}
    write(lab, TEXTS[:1])
    assert tune(lab, "eval", str(run), "eval.gate=[]") == 2, "the file is not what it was"
    assert tune(lab, "eval", str(run), "eval.gate=[]", "eval.general=general.jsonl") == 0
    shipped = [json.loads(line)["text"] for line in (SHIPPED_DATA / "general.jsonl").read_text().splitlines()]
    assert read_json(run / "metrics.json")["base"]["general_loss"] == pytest.approx(plain_loss(base, shipped), rel=1e-4)
    after = {stage["name"]: stage["key"] for stage in read_json(run / "plan.json")["stages"]}
    assert before["train"] == after["train"]
    assert before["baseline"] != after["baseline"]
    assert tune(lab, "eval", str(run), "eval.gate=[]", "eval.general=null") == 0
    assert "general_loss" not in read_json(run / "metrics.json")["tuned"]


def test_the_set_of_ours_is_texts_of_many_kinds() -> None:
    texts = forgetting.texts([str(SHIPPED_DATA / "general.jsonl")])
    assert 40 <= len(texts) == len(set(texts))
    assert sum("def " in text or "SELECT" in text or "import " in text for text in texts) >= 3
    assert any("一" in text for text in texts)


def test_rows_without_text_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n{"text": ""}\n')
    with pytest.raises(TuneError, match="there is no `text`") as told:
        forgetting.texts([str(tmp_path / "a.jsonl")])
    assert told.value.problems[0].where.endswith("a.jsonl:2")


def test_what_writes_no_text_has_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(tmp_path)
    assert tune(lab, "recipe=small", "dry_run=true", "task=classify", f"model.id={labs.encoder()}", "eval.general=general.jsonl") == 2
    assert "`task=classify` has no use for `eval.general`" in capsys.readouterr().err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(make_lab(tmp_path), "recipe=small", "dry_run=true", "eval.general=nowhere.jsonl") == 2
    said = capsys.readouterr().err
    assert "no such file: nowhere.jsonl" in said
    assert "eval.general=nowhere.jsonl" in said


def test_the_interval_is_of_these_texts() -> None:
    """Two texts that change alike leave no doubt."""

    def rows(loss: float) -> list[Scored]:
        return [Scored(prompt=[], reference="a", loss_sum=loss, tokens=2), Scored(prompt=[], reference="b", loss_sum=2 * loss, tokens=4)]

    found = forgetting.compared(rows(2.0), rows(3.0), samples=200, seed=0)
    assert found["base"] == {"general_loss": 1.0}
    assert found["intervals"]["general_loss"] == [0.5, 0.5]
    assert found["verdicts"] == {"general_loss": "worse"}
    assert math.isclose(found["tuned"]["general_loss"], 1.5)
