"""`task: tag`: words and their pieces, entities as seqeval counts them, what is saved and refused, over a tiny BERT."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForTokenClassification
from seqeval.metrics import f1_score, precision_score, recall_score
from transformers import AutoTokenizer

from tests.lab import task_of, train, weights_of
from tests.tasks import cards, labs
from tuner import cli
from tuner.data.splits import held_out, split
from tuner.data.store import IGNORE, LabelRows
from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval.scores import summary
from tuner.runs import read_json


def test_a_tag_is_learned_at_its_words_first_piece(tmp_path: Path) -> None:
    """`unhappys` is three pieces; of it, of [CLS] and of [SEP] only the first piece has a tag."""
    run = labs.tags(tmp_path).run()
    prepared = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], prepared)
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    rows, names = LabelRows(prepared), read_json(prepared / "data.json")["labels"]
    assert names == ["O", "B-Ill", "B-Mood", "I-Ill"]
    for index, given in enumerate(map(json.loads, (tmp_path / "train.jsonl").read_text().splitlines())):
        (row,) = rows[index]["rows"]
        pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
        found = [(piece, names[tag]) for piece, tag in zip(pieces, row["labels"], strict=True) if tag != IGNORE]
        assert [tag for _, tag in found] == given["tags"]
        assert [piece for piece, _ in found] == ["un" if token == "unhappys" else token for token in given["tokens"]]


def test_entities_are_counted_as_seqeval_does(tmp_path: Path) -> None:
    run = labs.tags(tmp_path).run("trainer.num_train_epochs=5", "adapter=full")
    train(run)
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    given = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    true = [row["tags"] for row in given]
    said = []
    for row, one in zip(given, rows, strict=True):
        written = iter(one.answer.split())
        tags, following = [], next(written, None)
        for token in row["tokens"]:
            if following and following.startswith(f"{token}/"):
                tags.append(following.partition("/")[2])
                following = next(written, None)
            else:
                tags.append("O")
        assert following is None
        said.append(tags)
    found = summary(rows, task_of(run).formulas(run))
    assert found["f1"] == pytest.approx(f1_score(true, said))
    assert found["precision"] == pytest.approx(precision_score(true, said))
    assert found["recall"] == pytest.approx(recall_score(true, said))
    assert found["f1"] > 0.9
    assert found["accuracy"] == pytest.approx(np.mean([a == b for x, y in zip(said, true, strict=True) for a, b in zip(x, y, strict=True)]))


def test_what_is_saved_loads_in_plain_peft_and_in_a_pipeline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.tags(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.num_train_epochs=8"]) == 0
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        names = read_json(folder / "data.json")["labels"]
        plain: Any = AutoPeftModelForTokenClassification.from_pretrained(folder, num_labels=len(names), id2label=dict(enumerate(names)))
        assert any("classifier" in name and "lora" not in name for name in weights_of(folder))
        inputs = AutoTokenizer.from_pretrained(folder)("a cold fever", return_tensors="pt")
        with torch.no_grad():
            tags = plain.eval()(**inputs).logits[0].argmax(1)
        assert [names[tag] for tag in tags[1:4]] == ["O", "B-Ill", "I-Ill"]
        assert "pipeline_tag: token-classification" in (folder / "README.md").read_text(encoding="utf-8")
        found = cards.printed(folder, {"…": "a cold fever"})
        assert "'entity_group': 'Ill'" in found
        assert "'word': 'cold fever'" in found
        capsys.readouterr()
        assert cli.main(["try", "small", "a cold fever with unhappys", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [(entry["label"], entry["text"]) for entry in found] == [("Ill", "cold fever"), ("Mood", "unhappys")]


def test_words_beyond_the_length_are_not_found(tmp_path: Path) -> None:
    """They are counted as missed, and told of."""
    run = labs.tags(tmp_path).run("task.max_length=8")
    train(run)
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    given = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    assert [row.counts["words"] for row in rows] == [len(row["tags"]) for row in given]
    assert read_json(run.stage_folder("prepare") / "audit.json")["rows_truncated"] > 0


def test_a_word_without_a_piece_moves_no_tag(tmp_path: Path) -> None:
    lab = labs.tags(tmp_path)
    rows = ({"tokens": ["a", *gap, "cold", "fever"], "tags": ["O", *("O" for _ in gap), "B-Ill", "I-Ill"]} for gap in ([], ["​"]))
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = lab.run("trainer.num_train_epochs=8", "adapter=full")
    train(run)
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    assert [row.answer for row in rows] == ["cold/B-Ill fever/I-Ill"] * 2


def test_tags_that_make_no_entities_are_measured_by_themselves(tmp_path: Path) -> None:
    lab = labs.tags(tmp_path)
    for name in ("train", "eval"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(path.read_text().replace("B-Ill", "NOUN").replace("I-Ill", "VERB").replace("B-Mood", "ADJ"))
    run = lab.run("trainer.max_steps=3")
    train(run)
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    assert set(summary(rows, task_of(run).formulas(run))) == {"loss", "accuracy", "f1_macro"}


def test_numbers_are_no_names_of_entities(tmp_path: Path) -> None:
    """Rows whose tags are numbers, as on the Hub, are measured by words until they are named."""
    lab, names = labs.tags(tmp_path), ["O", "B-Ill", "I-Ill", "B-Mood"]
    for name in ("train", "eval"):
        path = tmp_path / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [json.dumps({"tokens": row["tokens"], "ner_tags": [names.index(tag) for tag in row["tags"]]}) for row in rows]
        path.write_text("\n".join(lines) + "\n")
    for options, told, measured in (((), True, "f1_macro"), ((f"task.labels=[{','.join(names)}]",), False, "f1")):
        run = lab.run(*options)
        lab.told.clear()
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
        assert any("entities need their names" in line for line in lab.told) is told
        assert measured in task_of(run).formulas(run)


def test_without_seqeval_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "seqeval.metrics.sequence_labeling", None)
    run = labs.tags(tmp_path).run()
    with pytest.raises(TuneError, match="measured with seqeval") as caught:
        task_of(run).check(run, held_out(run))
    assert caught.value.code == ENVIRONMENT


def test_as_many_tags_as_tokens(tmp_path: Path) -> None:
    lab = labs.tags(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"tokens": ["a", "day"], "tags": ["O"]}) + "\n")
    run = lab.run()
    with pytest.raises(TuneError, match="2 tokens, but 1 tags"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
