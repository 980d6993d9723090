"""Transforms in a run: places, counts, held-out rows, contamination, and what a person is told when a step cannot be done."""

from __future__ import annotations

import json
import re
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.data.test_transforms import rows_of, run
from tests.lab import Lab, make_lab
from tuner import registry, worker
from tuner.cli import main
from tuner.data import contamination
from tuner.data.splits import facts, split
from tuner.data.transform import apply, told
from tuner.data.transforms.duplicates import HASHES, bands_for
from tuner.data.transforms.steps import library
from tuner.errors import TuneError
from tuner.pipeline import execute
from tuner.runs import read_json
from tuner.schema.transforms.languages import LANGUAGES
from tuner.schema.transforms.reading import steps

LONG = "the quick brown fox jumps over the lazy dog near the old river bank"


def did(step: str, given: list[dict[str, Any]]) -> dict[str, Any]:
    (report,) = apply(rows_of(given), steps([yaml.safe_load(step)]), seed=0)[1]
    return report


def fault(step: str, given: list[dict[str, Any]]) -> Any:
    with pytest.raises(TuneError) as caught:
        run(step, given)
    assert caught.value.code == 2
    return caught.value.problems[0]


def test_rows_keep_their_places_through_drops_and_copies() -> None:
    given = rows_of([{"t": "a"}, {"t": " b "}, {"t": ""}, {"t": "d"}])
    found, reports = apply(given, steps(["drop_empty", "trim", {"repeat": {"times": 2, "where": "t == 'b'"}}, {"sort_by": "t"}]), seed=0)
    assert [found.place(i) for i in range(len(found))] == ["rows.jsonl:1", "rows.jsonl:2", "rows.jsonl:2", "rows.jsonl:4"]
    assert reports == [
        {"name": "drop_empty", "changed": 0, "dropped": 1, "added": 0, "rows": 3},
        {"name": "trim", "changed": 1, "dropped": 0, "added": 0, "rows": 3},
        {"name": "repeat", "changed": 0, "dropped": 0, "added": 1, "rows": 4},
        {"name": "sort_by", "changed": 0, "dropped": 0, "added": 0, "rows": 4},
    ]
    assert told(reports[0]) == "drop_empty: 1 dropped; 3 rows"
    assert told(reports[3]) == "sort_by: nothing to do; 4 rows"


def test_names_paths_labels_and_roles_are_no_texts_unless_asked_for() -> None:
    row = {"id": "A", "image": "A.PNG", "tokens": ["A"], "messages": [{"role": "User", "content": "A", "name": "A"}], "text": "A"}
    assert run("lowercase", [row]) == [row | {"messages": [{"role": "User", "content": "a", "name": "A"}], "text": "a"}]
    assert run("lowercase: {fields: [id, tokens]}", [row]) == [row | {"id": "a", "tokens": ["a"]}]


def test_what_is_equal_in_python_but_another_value_is_a_change() -> None:
    assert did("cast: {column: n, to: number}", [{"n": 1}])["changed"] == 1
    assert did("cast: {column: n, to: integer}", [{"n": 1}])["changed"] == 0


def test_draws_depend_on_the_seed_and_on_nothing_else() -> None:
    given, draw = rows_of([{"n": n} for n in range(100)]), steps([{"sample": 10}])
    drawn = [[row["n"] for row in apply(given, draw, seed=seed)[0]] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(set(drawn[0])) == 10


@pytest.mark.parametrize(
    ("step", "rows", "what", "where", "fix"),
    [
        ("min_chars: 9", [{"t": "a"}], "`min_chars` drops all 1 rows", "data.transforms, step 1 (min_chars)", "loosen it"),
        ("trim: {fields: [txet]}", [{"text": "a"}], "no row has a column `txet`", "data.transforms, step 1 (trim)", "did you mean `text`?"),
        ('filter: "labl > 1"', [{"label": 1}], "no row has a column `labl`", "data.transforms, step 1 (filter)", "did you mean `label`?"),
        ("cast: {column: n, to: integer}", [{"n": 1}, {"n": "x"}], "`n` is 'x', which is no integer", "rows.jsonl:2", "mend the row"),
        ("parse_json: m", [{"m": "[1"}], "`m` is no JSON", "rows.jsonl:1", "mend the row"),
        ('filter: "n > 1"', [{"n": 2}, {"n": None}], "the expression `n > 1` cannot be computed", "rows.jsonl:2", "mend the row"),
        ("explode: q", [{"q": "x"}], "`q` is no list: 'x'", "rows.jsonl:1", "mend the row"),
        ("sort_by: n", [{"n": 1}, {"n": "a"}], "cannot be compared", "rows.jsonl:1", "mend the row"),
        ("script: [Latn2]", [{"t": "a"}], "`script` does not know", "script.keep", "Latin, Cyrillic"),
        ("drop_matching: '^(a|aa)+$'", [{"t": "b"}, {"t": "a" * 60 + "b"}], "takes too long", "rows.jsonl:2", "mend the row"),
        ("replace: {pattern: '^(a|aa)+$'}", [{"t": "a" * 60 + "b"}], "takes too long", "rows.jsonl:1", "mend the row"),
    ],
)
def test_what_a_step_cannot_do_is_told_with_its_place(step: str, rows: list[dict[str, Any]], what: str, where: str, fix: str) -> None:
    problem = fault(step, rows)
    assert what in problem.what
    assert problem.where == where
    assert fix in problem.fix


def test_the_languages_are_those_of_the_library() -> None:
    assert {
        str(name) for name in library("py3langid.langid", "language").LanguageIdentifier.from_model_file("data/model.npz.xz").nb_classes
    } == {
        *LANGUAGES,
        "zxx",
    }


def test_a_library_that_is_not_installed_is_told() -> None:
    with pytest.raises(TuneError, match="fix_encoding needs no_such_library") as caught:
        library("no_such_library", "fix_encoding")
    assert (caught.value.code, caught.value.problems[0].fix) == (4, 'pip install "tuner[clean]"')


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_rows_at_the_threshold_meet_in_the_index(threshold: float) -> None:
    bands = bands_for(threshold)
    assert HASHES % bands == 0
    assert 1 - (1 - threshold ** (HASHES // bands)) ** bands >= 0.99


def test_near_duplicates_of_short_long_and_chinese_texts() -> None:
    chinese = "今天天气很好我们一起去公园散步然后回家吃饭看电影"
    given = [{"t": LONG}, {"t": LONG.upper() + "!"}, {"t": chinese}, {"t": chinese + "吧"}, {"t": "yes"}, {"t": "no"}, {"t": ""}, {"t": 3}]
    assert run("drop_near_duplicates: 0.8", given) == [given[0], given[2], *given[4:]]


# Contamination


def overlap(train: list[dict[str, Any]], held_out: list[dict[str, Any]]) -> contamination.Overlap:
    return contamination.overlap(rows_of(train), rows_of(held_out))


def test_half_a_text_is_found_whatever_their_case_and_marks() -> None:
    found = overlap([{"t": "x " * 20}, {"q": "Oh! The QUICK brown fox; jumps over the lazy dog, then"}], [{"t": "none"}, {"t": LONG}])
    assert (found.rows, found.held_out, found.identical) == ([1], {1}, 0)
    assert found.first == [
        {"row": "rows.jsonl:2", "held_out": "rows.jsonl:2", "shared": "64% of 14 words: the quick brown fox jumps over the lazy dog"}
    ]


def test_a_stock_phrase_is_not_enough_and_columns_do_not_run_into_each_other() -> None:
    assert overlap([{"t": "the quick brown fox jumps over cats"}], [{"t": LONG}]).rows == []
    assert overlap([{"a": "the quick brown fox", "b": "jumps over the lazy dog"}], [{"t": LONG}]).rows == []
    question = "Sam had 30 apples and gave 12 of them away, how much money does he have left if an apple costs 2 dollars?"
    assert (
        overlap([{"q": "Tom sold two pens; how much money does he have left?", "a": "30 - 12 = 18 18 2 36"}], [{"q": question}]).rows == []
    )
    assert overlap([{"a": "30 - 12 = 18"}], [{"q": "x", "a": "30 - 12 = 18"}]).rows == [], "sums are alike everywhere"


def test_a_question_is_found_with_another_answer_reworded_or_inside_a_longer_text() -> None:
    held_out = [{"q": "Sam had thirty apples and gave twelve of them to his sister on Monday. How many are left?", "a": LONG * 3}]
    told = [
        {"q": held_out[0]["q"], "a": "no idea"},
        {"q": held_out[0]["q"].replace("Sam", "Tom").replace("Monday", "Friday")},
        {"messages": [{"role": "user", "content": f"Please solve this. {held_out[0]['q']} Thank you!"}]},
    ]
    assert overlap(told, held_out).rows == [0, 1, 2]


def test_fifty_words_of_a_long_text_are_enough_and_what_one_speaker_says_is_one_part() -> None:
    words = [f"w{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(400)]
    assert overlap([{"t": " ".join(words[100:150])}, {"t": " ".join(words[100:149])}], [{"t": " ".join(words)}]).rows == [0]
    phrase = "sure i can help with that could you please tell me more"
    talk = [
        {"from": "human", "value": " ".join(words[:20])},
        {"from": "gpt", "value": phrase},
        {"from": "gpt", "value": " ".join(words[20:60])},
    ]
    train = [{"conversations": [{"from": "human", "value": "hello"}, {"from": "gpt", "value": phrase}], "tools": LONG}]
    assert overlap(train, [{"conversations": talk, "tools": LONG}]).rows == []


def test_few_rows_of_gsm8k_repeat_others_and_every_planted_one_is_found(shared_data: Path) -> None:
    lines = (shared_data / "gsm8k" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:3000]
    rows = [json.loads(line) for line in lines]
    held_out, train = rows[::10], [row for n, row in enumerate(rows) if n % 10]
    assert len(overlap(train, held_out).rows) <= 0.005 * len(train), "one shared 8-gram, the rule before, tells of 5 %"
    reworded = [{"q": re.sub(r"((?:\S+ ){11})\S+", r"\1else", row["question"])} for row in held_out]
    assert len(overlap(reworded, held_out).rows) == len(held_out), "a word in twelve is another"
    assert len(overlap([{"q": re.sub(r"\d+", "77", row["question"])} for row in held_out], held_out).rows) >= 0.95 * len(held_out)


def test_a_short_row_counts_when_it_is_the_same() -> None:
    found = overlap(
        [{"p": "2+2?", "c": "4"}, {"p": "2+3?", "c": "5"}], [{"messages": [{"role": "user", "content": "2 + 2"}]}, {"p": "2+2?", "c": "4"}]
    )
    assert (found.rows, found.held_out, found.identical) == ([0], {1}, 1)


def test_chinese_is_compared_by_characters() -> None:
    assert overlap([{"t": "所以今天天气很好我们去公园"}], [{"t": "今天天气很好我们"}]).rows == [0]


def test_a_frame_that_all_rows_share_is_not_contamination() -> None:
    frame = "Answer the following question about the given ticket with one word:"
    talk = [{"role": "system", "content": LONG}, {"role": "user", "content": ""}]

    def rows(names: str) -> list[dict[str, Any]]:
        return [{"messages": [talk[0], {"role": "user", "content": f"{frame} {name}"}]} for name in names]

    found = overlap(rows("abcdef"), rows("ghijk"))
    assert found.rows == []
    assert found.common > 0
    assert overlap(rows("a"), rows("g")).rows == [0], "of one held-out row alone, nothing tells a frame from a question"


# In a run


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path)
    talks = [{"prompt": f" {LONG} {n % 7}?", "completion": f"<b>{chr(97 + n)}</b>", "n": n} for n in range(20)]
    (made.folder / "train.jsonl").write_text("".join(json.dumps(t) + "\n" for t in talks), encoding="utf-8")
    held_out = [{"prompt": " zebra? ", "completion": "<b>z</b>", "n": 0}, {"prompt": LONG, "completion": "<i>y</i>", "n": 99}]
    (made.folder / "eval.jsonl").write_text("".join(json.dumps(t) + "\n" for t in held_out), encoding="utf-8")
    return made


STEPS = 'data.transforms=[trim,strip_html,{filter: "n < 10"},{truncate_chars: {most: 3, fields: [completion]}}]'


def test_held_out_rows_are_shaped_and_never_dropped_or_cut(lab: Lab) -> None:
    train, held_out = split(lab.run(STEPS))
    assert [row["completion"] for row in train] == list("abcdefghij")
    assert [(row["prompt"], row["completion"], row["n"]) for row in held_out] == [("zebra?", "z", 0), (LONG, "y", 99)]
    assert train.place(9).endswith("train.jsonl:10")
    assert lab.told[:3] == [
        "transform trim: 20 changed; 20 rows",
        "transform strip_html: 20 changed; 20 rows",
        "transform filter: 10 dropped; 10 rows",
    ]


def test_prepared_data_says_what_was_done(lab: Lab) -> None:
    run = lab.run(STEPS, "task.max_length=300")
    execute(run, only=("prepare",))
    data = read_json(run.stage_folder("prepare") / "data.json")
    assert [step["name"] for step in data["transforms"]] == ["trim", "strip_html", "filter", "truncate_chars"]
    assert data["train"]["rows"] == 10
    about = data["contamination"]
    assert (about["rows"], about["share"], about["held_out"], about["held_out_rows"], about["done"]) == (10, 1.0, 1, 2, "report")
    assert any(
        line.startswith("contamination: 10 training rows repeat half or more of 1 of 2 held-out rows; the first: ") for line in lab.told
    )


def test_contamination_is_dropped_or_a_gate(lab: Lab) -> None:
    (lab.folder / "eval.jsonl").write_text(json.dumps({"prompt": f"{LONG} 3?", "completion": "y"}) + "\n", encoding="utf-8")
    with_others = "data.transforms=[{replace: {pattern: 'the (.*) river bank [^3]', by: x}}]"
    kept, _ = split(run := lab.run(with_others, "data.contamination=drop"))
    assert [row["n"] for row in kept] == [n for n in range(20) if n % 7 != 3]
    assert facts(run)["contamination"]["rows"] == 3
    with pytest.raises(TuneError, match="3 training rows repeat half or more of 1 of 1") as caught:
        split(lab.run(with_others, "data.contamination=stop"))
    assert caught.value.code == 3
    with pytest.raises(TuneError, match="all 20 training rows hold parts") as caught:
        split(lab.run("data.contamination=drop"))
    assert caught.value.code == 2


def test_check_warns_of_contamination(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code = worker.main([str(lab.write_plan(STEPS, "task.max_length=300")), "--check", "--json"])
    found = {f["name"]: f for f in json.loads(capsys.readouterr().out)["findings"]}
    assert code == 0
    assert found["held out"]["state"] == "warn"
    assert "10 training rows repeat half or more of 1 of 2 held-out rows" in found["held out"]["text"]


def changed(lab: Lab, before: tuple[str, ...], after: tuple[str, ...]) -> set[str]:
    keys = [{s.name: s.key for s in lab.plan(*o).stages} for o in (before, after)]
    return {name for name in keys[0] if keys[0][name] != keys[1][name]}


def test_what_a_step_does_again(lab: Lab) -> None:
    everything = {"prepare", "baseline", "train", "evaluate", "publish"}
    assert changed(lab, (), ("data.transforms=[trim]",)) == everything
    assert changed(lab, (), ("data.transforms=[{min_chars: 2}]",)) == everything - {"baseline"}, "held-out rows stay as they are"
    assert changed(lab, (), ("data.contamination=drop",)) == everything - {"baseline"}
    before = {s.name: s.key for s in lab.plan("data.contamination=drop").stages}
    (lab.folder / "eval.jsonl").write_text('{"prompt": "other?", "completion": "y", "n": 1}\n', encoding="utf-8")
    assert before["prepare"] != {s.name: s.key for s in lab.plan("data.contamination=drop").stages}["prepare"]


# A person's own

THEIR_KINDS = '''
from dataclasses import dataclass
from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms import Transform


@kind("transform", "shout")
@dataclass(kw_only=True)
class Shout(Transform):
    """Says it louder."""

    impl, main, example = "their_steps", "mark", 'shout: "!"'
    fields: list[str] = opt(factory=list)
    """Columns."""
    mark: str = opt("!")
    """What stands at the end."""
'''
THEIR_STEPS = """
from tuner.data.transforms.steps import texts

STEPS = {"shout": texts(lambda step: lambda text: text.upper() + step.mark)}
"""


def test_another_package_registers_a_transform(lab: Lab, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.folder / "their_kinds.py").write_text(THEIR_KINDS, encoding="utf-8")
    (lab.folder / "their_steps.py").write_text(THEIR_STEPS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(lab.folder))
    monkeypatch.setattr(registry, "_KINDS", {group: dict(found) for group, found in registry._KINDS.items()})
    monkeypatch.setattr(registry, "entry_points", lambda group: [EntryPoint("theirs", "their_kinds", group)])
    train, held_out = split(lab.run('data.transforms=[{shout: "?!"}]'))
    assert train[0]["completion"] == "<B>A</B>?!"
    assert held_out[0]["prompt"] == " ZEBRA? ?!"
    with pytest.raises(TuneError, match="`shout` has no argument `marc`"):
        lab.plan("data.transforms=[{shout: {marc: x}}]")
    assert main(["explain", "transforms.shout"]) == 0
    assert "Says it louder." in capsys.readouterr().out
