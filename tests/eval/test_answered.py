"""What an answer is worth by itself: JSON and its fields, exact by value, shared words, numbers, patterns, schemas, one's own."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.lab import make_lab
from tuner import cli
from tuner.errors import TuneError
from tuner.eval.answered import over, scorer
from tuner.runs import read_json
from tuner.schema.eval import Eval

REFERENCE = '{"intent": "refund", "urgent": true, "count": 2}'
BOTH = ["json", "exact_match"]


def score(answer: str, reference: str, metrics: list[str]) -> dict[str, float]:
    return scorer(Eval(metrics=metrics))(answer, reference, [])


@pytest.mark.parametrize(
    ("answer", "valid", "fields", "exact"),
    [
        (REFERENCE, 1, (1, 1, 1), 1),
        ('{"count":2,"urgent":true,"intent":"refund"}', 1, (1, 1, 1), 1),  # order and spaces do not matter
        ('  {"intent": "refund", "urgent": true, "count": 2}\n', 1, (1, 1, 1), 1),
        ('{"intent": "refund", "urgent": true, "count": 3}', 1, (1, 1, 0), 0),
        ('{"intent": "refund", "urgent": true}', 1, (1, 1, 0), 0),
        ('{"intent": "refund", "urgent": true, "count": 2, "more": 1}', 1, (1, 1, 1), 0),
        ('{"intent": "Refund", "urgent": "true", "count": "2"}', 1, (0, 0, 0), 0),
        ('["refund"]', 1, (0, 0, 0), 0),
        ('"refund"', 0, (0, 0, 0), 0),
        ("3", 0, (0, 0, 0), 0),
        ("null", 0, (0, 0, 0), 0),
        ("", 0, (0, 0, 0), 0),
        (REFERENCE + " Anything else?", 0, (0, 0, 0), 0),
        (REFERENCE[:-1], 0, (0, 0, 0), 0),
        ("```json\n" + REFERENCE + "\n```", 0, (0, 0, 0), 0),  # a fence is not JSON: the user's parser would fail
    ],
)
def test_json_answers(answer: str, valid: int, fields: tuple[int, int, int], exact: int) -> None:
    expected = {"valid_json": valid, "field/intent": fields[0], "field/urgent": fields[1], "field/count": fields[2], "exact_match": exact}
    assert score(answer, REFERENCE, BOTH) == expected


def test_true_is_not_one_and_null_is_a_value() -> None:
    """Python's `True == 1` must not make a wrong type right."""
    assert score('{"a": 1}', '{"a": true}', BOTH) == {"valid_json": 1, "field/a": 0, "exact_match": 0}
    assert score('{"a": false}', '{"a": 0}', BOTH)["exact_match"] == 0
    assert score('{"a": [1, {"b": 1}]}', '{"a": [1, {"b": true}]}', BOTH)["exact_match"] == 0
    assert score("{}", '{"a": null}', BOTH) == {"valid_json": 1, "field/a": 0, "exact_match": 0}
    assert score('{"a": null}', '{"a": null}', BOTH) == {"valid_json": 1, "field/a": 1, "exact_match": 1}
    assert score('{"a": 2.0}', '{"a": 2}', BOTH)["exact_match"] == 1, "a number is its value"


def test_plain_text() -> None:
    assert score(" Paris ", "Paris", ["exact_match"]) == {"exact_match": 1}
    assert score("paris", "Paris", ["exact_match"]) == {"exact_match": 0}
    assert score("Paris", "Paris", []) == {}
    assert score("x", "plain", ["json"]) == {"valid_json": 0}


@pytest.mark.parametrize("answer", ["[" * 100_000, "9" * 10_000, '{"a": NaN}', '{"a": Infinity}', "\x00", '{"a": "\ud800"}'])
def test_wild_answers_score_zero_and_break_nothing(answer: str) -> None:
    assert score(answer, REFERENCE, BOTH)["exact_match"] == 0
    assert score(answer, REFERENCE, BOTH)["field/intent"] == 0


def test_what_is_not_strict_json_is_not_valid() -> None:
    """Python reads NaN, no other parser does (RFC 8259)."""
    assert score('{"intent": NaN}', REFERENCE, ["json"])["valid_json"] == 0


@pytest.mark.parametrize(
    ("name", "more", "answer", "reference", "value"),
    [
        ("f1", {}, "The Eiffel tower", "eiffel tower, Paris", 0.8),
        ("f1", {}, "", "something", 0.0),
        ("f1", {}, "今天很好", "今天好", 6 / 7),
        ("numeric", {}, "that is 1,200.", "... #### 1200", 1.0),
        ("numeric", {}, "no idea", "... #### 1200", 0.0),
        ("regex", {"pattern": r"^[A-D]$"}, "B", "", 1.0),
        ("regex", {"pattern": r"^[A-D]$"}, "(B)", "", 0.0),
        ("json_schema", {"json_schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', "", 1.0),
        ("json_schema", {"json_schema": {"type": "object", "required": ["a"]}}, "[1]", "", 0.0),
        ("json_schema", {"json_schema": {"type": "object"}}, "no JSON", "", 0.0),
    ],
)
def test_metrics_by_name(name: str, more: dict[str, Any], answer: str, reference: str, value: float) -> None:
    assert scorer(Eval(metrics=[name], **more))(answer, reference, []) == {name: pytest.approx(value)}


def test_several_answers_to_a_row() -> None:
    assert over([{"exact_match": 1.0}]) == {"exact_match": 1.0}
    found = over([{"exact_match": 0.0, "f1": 0.5}, {"exact_match": 1.0, "f1": 0.25}])
    assert found == {"exact_match": 0.5, "f1": 0.375, "exact_match@2": 1.0, "f1@2": 0.5}


def test_sampled_answers_are_measured(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    wanted = ["eval.temperature=1.5", "eval.num_samples=3", "eval.max_new_tokens=16", "eval.metrics=[regex]", "eval.pattern='[a-z]'"]
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", *wanted]) == 0
    (run,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(run / "metrics.json")["tuned"]
    rows = [json.loads(line) for line in next((run / "eval").glob("*/rows.jsonl")).read_text().splitlines()]
    right = [[re.search("[a-z]", text) is not None for text in row["tuned_samples"]] for row in rows]
    assert all(len(each) == 3 for each in right)
    assert found["regex"] == pytest.approx(sum(map(sum, right)) / (3 * len(right)))
    assert found["regex@3"] == pytest.approx(sum(map(any, right)) / len(right))
    assert 0 < found["regex"] <= found["regex@3"]


def test_a_schema_that_is_none_is_told() -> None:
    with pytest.raises(TuneError) as told:
        scorer(Eval(metrics=["json_schema"], json_schema={"type": "objekt"}))
    assert told.value.problems[0].where == "eval.json_schema"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["eval.metrics=[nummeric]"], "did you mean `numeric`?"),
        (["eval.metrics=[regex]"], "the metric `regex` needs `eval.pattern`"),
        (["eval.metrics=[json_schema]"], "the metric `json_schema` needs `eval.json_schema`"),
        (["eval.metrics=[regex]", "eval.pattern='('"], "`eval.pattern` is no regular expression"),
        (["eval.num_samples=2"], "greedy answers are all the same"),
        (["eval.top_p=0.5"], "`eval.temperature` is 0"),
        (["eval.pattern='a'"], "no metric reads `eval.pattern`"),
    ],
)
def test_what_is_missing_or_for_nothing_is_told(
    overrides: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "dry_run=true", *overrides]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("error:") == 1


def test_a_metric_of_one_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is measured on base and tuned, its file enters the keys of what it measures, and `tune ls metrics` has it."""
    lab = make_lab(tmp_path)
    own = lab.folder / "own.py"
    own.write_text(
        "from tuner.extend import metric\n\n@metric\ndef short(answer: str, prompt: list) -> float:\n"
        "    '''1 where the answer is at most ten letters.'''\n    return float(len(answer) <= 10 and bool(prompt))\n"
    )
    trusted = ["--extensions", "own.py", "--trust"]
    small = ["recipe=small", "launcher=inline", "eval.metrics=[short, exact_match]", "eval.max_new_tokens=3", *trusted]
    with contextlib.chdir(lab.folder):
        assert cli.main(small) == 0
        (run,) = (lab.folder / "outputs" / "small").iterdir()
        found = read_json(run / "metrics.json")
        assert found["base"]["short"] == found["tuned"]["short"] == 1.0
        assert cli.main(["ls", "metrics", *trusted]) == 0
        assert "1 where the answer is at most ten letters." in capsys.readouterr().out
        before = read_json(run / "plan.json")
        own.write_text(own.read_text().replace("<= 10", "<= 11"))
        assert cli.main(small) == 0
        after = read_json(run / "plan.json")  # the same training, measured anew
    keys = [{stage["name"]: stage["key"] for stage in plan["stages"]} for plan in (before, after)]
    assert keys[0]["train"] == keys[1]["train"]
    assert keys[0]["baseline"] != keys[1]["baseline"]
    assert "unknown metric `short`" in lab.tune("recipe=small", "dry_run=true", "eval.metrics=[short]").stderr
