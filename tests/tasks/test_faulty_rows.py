"""Rows whose label is none: told with their place, or passed over where the recipe says so; never a number without end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, task_of
from tests.tasks import labs
from tests.tasks import test_preference as preference
from tuner.data.splits import split
from tuner.errors import TuneError
from tuner.runs import read_json


def liked(folder: Path) -> Lab:
    return preference.liked(preference.lab_of(folder))


FAULTS = {
    "an empty label": (labs.classes, {"label": None}, (), "the label is empty"),
    "a label that is no number": (labs.classes, {"label": float("nan")}, (), "the label is empty"),
    "several labels of one": (labs.classes, {"label": ["good", "bad"]}, (), "`task.problem=multi_label` learns them"),
    "one label of several": (labs.several, {"label": "good"}, ("task.problem=multi_label",), "needs a list of labels"),
    "a number that is none": (labs.numbers, {"score": float("nan")}, ("task.problem=regression",), "needs a number"),
    "a number without end": (labs.numbers, {"score": float("inf")}, ("task.problem=regression",), "needs a number"),
    "no words": (labs.tags, {"tokens": [], "tags": []}, (), "there are no words"),
    "an answer that stands elsewhere": (
        labs.answers,
        {"answers": {"text": ["un"], "answer_start": [0]}},
        (),
        "does not stand in its context",
    ),
    "answers without their places": (labs.answers, {"answers": {"text": ["a"], "answer_start": [0, 1]}}, (), "1 answers, but 2 places"),
    "no answers": (labs.answers, {"answers": None}, (), "`answers` is null"),
    "a text that is empty": (labs.answers, {"context": " "}, (), "the context is empty"),
    "a passage that fits too well": (labs.passages, {"label": 3}, (), "divide by the highest"),
    "a label of a passage that is none": (labs.passages, {"label": "good"}, (), "is a number, and this"),
    "a passage that is empty": (labs.passages, {"passage": " "}, (), "the query or a passage is empty"),
    "a text that is asked and is empty": (labs.related, {"anchor": " "}, (), "the anchor is empty"),
    "a text that is near to an empty one": (labs.alike, {"sentence2": ""}, (), "the second text is empty"),
    "a better answer that is empty": (preference.lab_of, {"chosen": " "}, ("task=dpo",), "an answer is empty"),
    "an answer that is liked and empty": (liked, {"completion": ""}, ("task=kto",), "an answer that was liked is empty"),
    "a liking that is none": (liked, {"label": 3}, ("task=kto",), "written as true or false, or as 1 or 0"),
    "a liking that is no number": (liked, {"label": float("nan")}, ("task=kto",), "written as true or false, or as 1 or 0"),
    "a likeness that is none": (labs.alike, {"score": float("nan")}, (), "how alike two texts are is a number"),
}
each_fault = pytest.mark.parametrize(("make", "change", "options", "said"), FAULTS.values(), ids=FAULTS)


def faulty(lab: Lab, change: dict[str, Any]) -> None:
    """The fifth training row is changed."""
    path = lab.folder / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[4] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def prepared(lab: Lab, *options: str) -> Path:
    run = lab.run(*options)
    folder = run.stage_folder("prepare")
    folder.mkdir(parents=True, exist_ok=True)
    task_of(run).prepare(run, split(run)[0], folder)
    return folder


@each_fault
def test_a_fault_is_told_with_its_place(make: Any, change: dict[str, Any], options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    lab = make(tmp_path)
    faulty(lab, change)
    with pytest.raises(TuneError, match=said) as caught:
        prepared(lab, *options)
    assert [p.where for p in caught.value.problems] == [f"{lab.folder}/train.jsonl:5"]


@pytest.mark.parametrize(
    ("make", "change", "options", "named"),
    [
        (labs.classes, {"label": None}, (), True),
        (labs.numbers, {"score": float("nan")}, ("task.problem=regression",), False),
        (labs.alike, {"score": float("nan")}, (), False),
    ],
)
def test_labels_are_named_where_there_are_names(
    make: Any, change: dict[str, Any], options: tuple[str, ...], named: bool, tmp_path: Path
) -> None:
    lab = make(tmp_path)
    faulty(lab, change)
    with pytest.raises(TuneError) as caught:
        prepared(lab, *options)
    assert ("task.labels" in caught.value.problems[0].fix) is named


@each_fault
def test_a_fault_is_passed_over(make: Any, change: dict[str, Any], options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    lab = make(tmp_path)
    faulty(lab, change)
    total = len((tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines())
    folder = prepared(lab, *options, "data.on_error=skip")
    assert read_json(folder / "data.json")["skipped"]["rows"] == 1
    assert read_json(folder / "audit.json")["rows"] == total - 1
