"""Recognising row layouts: every shape becomes the same Example, and what does not fit is told with what was found and expected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tuner.data.layout import read_all, recognise
from tuner.data.shapes import SHAPES as TABLE
from tuner.errors import Problem, TuneError
from tuner.schema.data import Data, OnError, RowShape

USER, ANSWER, SYSTEM = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "ho"), ("system", "be brief")))

SHAPES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ANSWER]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    "alpaca": {"instruction": "hi", "input": "", "output": "ho"},
    "prompt_completion": {"prompt": "hi", "completion": "ho"},
    "question_answer": {"question": "hi", "answer": "ho"},
}


def read(rows: list[dict[str, Any]], **data: Any) -> tuple[str, list[dict[str, Any]]]:
    layout, found, skipped = read_all(rows, Data(**data), place=lambda index: f"train.jsonl:{index + 1}")
    assert not skipped
    return str(layout.shape), found


def only(row: dict[str, Any], **data: Any) -> list[dict[str, Any]]:
    ((messages, tools),) = ((e["messages"], e["tools"]) for e in read([row], **data)[1])
    assert tools is None
    return list(messages)


def problem(rows: list[dict[str, Any]], **data: Any) -> Problem:
    with pytest.raises(TuneError) as caught:
        read(rows, **data)
    assert caught.value.code == 2
    return caught.value.problems[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_recognised_and_gives_the_same_messages(shape: str) -> None:
    found, (example,) = read([SHAPES[shape]])
    assert (found, example["messages"], example["tools"]) == (shape, [USER, ANSWER], None)
    assert example.get("answers_from", 1) == 1


@pytest.mark.parametrize("shape", SHAPES)
def test_columns_that_are_not_ours_are_left_alone(shape: str) -> None:
    assert only(SHAPES[shape] | {"id": 7, "source": None}) == [USER, ANSWER]


def test_a_said_shape_decides_between_two() -> None:
    both = SHAPES["prompt_completion"] | {"question": "q", "answer": "a"}
    assert only(both)[0]["content"] == "hi"
    assert only(both, shape=RowShape.question_answer)[0]["content"] == "q"


def test_alpaca_input_and_system() -> None:
    row = {"instruction": "Add.", "input": "1 2", "output": "3", "system": "be brief"}
    assert only(row) == [SYSTEM, {"role": "user", "content": "Add.\n\n1 2"}, {"role": "assistant", "content": "3"}]


def test_sharegpt_roles() -> None:
    names = ["system", "human", "observation", "gpt", "user", "assistant", "bot"]
    found = only({"conversations": [{"from": n, "value": n} for n in names]})
    assert [m["role"] for m in found] == ["system", "user", "tool", "assistant", "user", "assistant", "assistant"]


def test_columns_are_renamed_by_the_recipe() -> None:
    row = {"frage": "hi", "antwort": "ho"}
    assert only(row, columns={"prompt": "frage", "completion": "antwort"}) == [USER, ANSWER]
    assert only(row, columns={"question": "frage", "answer": "antwort"}) == [USER, ANSWER]
    chat = {"dialogue": SHAPES["messages"]["messages"]}
    assert only(chat, columns={"messages": "dialogue"}) == [USER, ANSWER]


def test_a_renamed_column_wins_over_one_of_that_name() -> None:
    row = {"prompt": "old", "better": "hi", "completion": "ho"}
    assert only(row, columns={"prompt": "better"}) == [USER, ANSWER]


def test_a_mapping_to_a_column_that_is_not_there_is_told() -> None:
    found = problem([{"frage": "hi", "antwort": "ho"}], columns={"prompt": "fragen", "completion": "antwort"})
    assert found.where == "data.columns"
    assert found.what == "`data.columns` names ['fragen'], but the rows have ['antwort', 'frage']"


def test_unknown_columns_show_what_was_found_and_what_was_expected() -> None:
    found = problem([{"text_in": "hello there", "text_out": "ho"}])
    assert "['text_in', 'text_out']" in found.what
    assert "hello there" in found.what
    assert "nearest shapes and what they need: " in found.fix
    assert "data.columns={prompt: your_column, completion: other}" in found.fix


def test_a_said_shape_that_does_not_fit_is_told_with_its_columns() -> None:
    found = problem([SHAPES["alpaca"]], shape=RowShape.question_answer)
    assert found.what.startswith("not `data.shape=question_answer`: the rows have the columns ['input', 'instruction', 'output']")
    assert "question_answer (question, answer)" in found.fix
    assert "alpaca" not in found.fix


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"question": "q", "answer": "a"}, "prompt"),
        ({"prompt": "q"}, "completion"),
        ({"prompt": "q", "completion": None}, "null"),
        ({"prompt": "q", "completion": 3}, "a number"),
        ({"prompt": "q", "completion": ["a"]}, "a message is text"),
    ],
)
def test_a_later_row_that_differs_names_its_place(row: dict[str, Any], hint: str) -> None:
    rows = [{"prompt": "hi", "completion": "ho"}] * 3 + [row]
    found = problem(rows)
    assert "not laid out as prompt_completion, as the first row is" in found.what
    assert hint in found.what
    assert found.where == "train.jsonl:4"
    assert str(row) in found.fix


@pytest.mark.parametrize(
    "row",
    [
        {"messages": "hi"},
        {"messages": ["hi", "ho"]},
        {"messages": None},
        {"messages": [{"role": "user"}]},
        {"messages": [{"content": "hi"}]},
        {"messages": [{"role": "user", "content": None}]},
        {"messages": {"role": "user", "content": "hi"}},
        {"conversations": [{"value": "hi"}]},
        {"conversations": ["hi"]},
    ],
)
def test_a_conversation_of_another_build_names_its_row(row: dict[str, Any]) -> None:
    (column,) = row
    good = SHAPES["messages" if column == "messages" else "sharegpt"]
    found = problem([good, row])
    assert found.where == "train.jsonl:2"
    assert found.what.endswith(("not text", "not a list", "not a mapping", "in ['role']", "in ['content']", "in ['value']"))


def test_a_mapped_column_missing_from_a_later_row_names_the_row() -> None:
    rows = [{"frage": "hi", "antwort": "ho"}, {"frage": "hi"}]
    found = problem(rows, columns={"prompt": "frage", "completion": "antwort"})
    assert found.where == "train.jsonl:2"


@pytest.mark.parametrize("row", [{"messages": []}, {"conversations": []}])
@pytest.mark.parametrize("system", [None, "be brief"])
def test_an_empty_conversation_is_refused(row: dict[str, Any], system: str | None) -> None:
    (column,) = row
    good = SHAPES["messages" if column == "messages" else "sharegpt"]
    found = problem([good, row], system=system)
    assert ("an empty conversation" in found.what, found.where) == (True, "train.jsonl:2")


def test_a_system_message_is_added_where_there_is_none() -> None:
    rows = [{"messages": [USER, ANSWER]}, {"messages": [{"role": "system", "content": "own"}, USER, ANSWER]}]
    _, found = read(rows, system="be brief")
    assert [e["messages"][0] for e in found] == [SYSTEM, {"role": "system", "content": "own"}]
    assert [len(e["messages"]) for e in found] == [3, 3]
    assert rows[0] == {"messages": [USER, ANSWER]}, "the rows themselves are left as they were"


HI, HO, NO = [{"role": "user", "content": "hi"}], [{"role": "assistant", "content": "ho"}], [{"role": "assistant", "content": "no"}]
LETTERS = {"chosen": "ho", "rejected": "no"}
LIKED = {"prompt": HI, "chosen": HO, "rejected": NO, "tools": None}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "hi", "chosen": "ho", "rejected": "no"},
        {"prompt": HI, "chosen": HO, "rejected": NO},
        {"chosen": HI + HO, "rejected": HI + NO},
        {"instruction": "hi", "input": "", "chosen": "ho", "rejected": "no"},
        {"question": "hi", "chosen": "ho", "rejected": "no", "id": 3},
        {
            "conversations": [{"from": "human", "value": "hi"}],
            "chosen": {"from": "gpt", "value": "ho"},
            "rejected": {"from": "gpt", "value": "no"},
        },
        {"query": "hi", "preferred": "ho", "dispreferred": "no"},
    ],
)
def test_preferences_with_and_without_a_prompt(row: dict[str, Any]) -> None:
    assert read([row]) == ("preference", [LIKED])


def test_preferences_that_share_no_beginning_or_are_the_same_are_told() -> None:
    assert "begin differently" in problem([{"chosen": HO, "rejected": NO}]).what
    assert "are the same" in problem([{"chosen": HI + HO, "rejected": HI + HO}]).what


@pytest.mark.parametrize("row", [{"messages": HI + HO, "label": True}, {"prompt": "hi", "completion": "ho", "label": True}])
def test_unpaired_preferences(row: dict[str, Any]) -> None:
    assert read([row]) == ("unpaired_preference", [{"prompt": HI, "completion": HO, "label": True, "tools": None}])
    assert read([row | {"label": "a topic"}])[0] != "unpaired_preference", "only true or false is a liking"
    assert read([row | {"label": 1}])[0] != "unpaired_preference", "nobody asked for one"


@pytest.mark.parametrize(("yes", "no"), [(1, 0), ("1", "0"), ("True", "False"), ("true", " false"), (1.0, 0.0)])
def test_a_liking_as_tables_write_it(yes: Any, no: Any) -> None:
    """Where likings are asked for."""
    rows = [{"prompt": "hi", "completion": "ho", "label": label} for label in (yes, no)]
    shape, found = read(rows, shape=RowShape.unpaired_preference)
    assert (shape, [example["label"] for example in found]) == ("unpaired_preference", [True, False])
    wrong = problem([*rows, rows[0] | {"label": 2}], shape=RowShape.unpaired_preference)
    assert "`label` is 2: whether the answer was liked is written as true or false, or as 1 or 0" in wrong.what


@pytest.mark.parametrize(
    ("row", "shape", "example"),
    [
        ({"text": "fine", "label": 1}, "label", {"text": "fine", "label": 1}),
        ({"sentence": "fine", "label": "good"}, "label", {"text": "fine", "label": "good"}),
        ({"sentence1": "a", "sentence2": "b", "score": "3.5"}, "pair", {"text": "a", "text_pair": "b", "score": 3.5}),
        ({"premise": "a", "hypothesis": "b", "label": 0}, "pair", {"text": "a", "text_pair": "b", "label": 0}),
        ({"tokens": ["a", "b"], "ner_tags": [0, 1]}, "tags", {"tokens": ["a", "b"], "tags": [0, 1]}),
        ({"tokens": '["a"]', "tags": '["O"]'}, "tags", {"tokens": ["a"], "tags": ["O"]}),
        (
            {"question": "q", "context": "a b", "answers": {"text": ["a"], "answer_start": [0]}},
            "answers",
            {"question": "q", "context": "a b", "answers": [("a", 0)]},
        ),
        ({"query": "q", "passage": "a", "label": 1}, "passage", {"text": "q", "text_pair": "a", "label": 1}),
        ({"question": "q", "document": "a", "score": "0.5"}, "passage", {"text": "q", "text_pair": "a", "score": 0.5}),
        ({"query": "q", "passage": "a"}, "triplet", {"anchor": "q", "positive": "a", "negatives": []}),
        (
            {"query": "q", "positive": "a", "negative_1": "b", "negative_2": "c"},
            "triplet",
            {"anchor": "q", "positive": "a", "negatives": ["b", "c"]},
        ),
        ({"text": "once upon"}, "text", {"text": "once upon"}),
        ({"image": "a.png", "label": "cat"}, "image", {"image": "a.png", "label": "cat"}),
        ({"image": "a.png", "mask": "b.png"}, "mask", {"image": "a.png", "mask": "b.png"}),
        ({"image": "a.png", "annotation": "b.png", "label": "cat"}, "image", {"image": "a.png", "label": "cat"}),
        ({"audio": "a.wav", "text": "zero"}, "audio", {"audio": "a.wav", "text": "zero"}),
    ],
)
def test_rows_that_are_no_conversation(row: dict[str, Any], shape: str, example: dict[str, Any]) -> None:
    assert read([row]) == (shape, [example])


def test_tags_are_as_many_as_tokens() -> None:
    assert "2 tokens, but 1 tags" in problem([{"tokens": ["a", "b"], "tags": ["O"]}]).what


def test_tool_calls_of_sharegpt_and_of_openai_become_the_same() -> None:
    schema = {"name": "weather", "parameters": {"type": "object"}}
    said = json.dumps({"name": "weather", "arguments": {"city": "Ulm"}})
    sharegpt = {
        "conversations": [
            {"from": "human", "value": "hi"},
            {"from": "function_call", "value": said},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "ho"},
        ],
        "tools": json.dumps([schema]),
    }
    call = {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}
    openai = {
        "messages": [*HI, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "sunny"}, *HO],
        "tools": [{"type": "function", "function": schema}],
    }
    ((one,), (other,)) = read([sharegpt])[1], read([openai])[1]
    assert one == other
    assert one["tools"] == [{"type": "function", "function": schema}]
    assert one["messages"][1]["tool_calls"][0]["function"] == {"name": "weather", "arguments": {"city": "Ulm"}}


@pytest.mark.parametrize(
    ("value", "what"),
    [("not json", "a function_call is no JSON"), ('{"city": "Ulm"}', "a tool call has no name"), ("3", "a tool call has no name")],
)
def test_a_tool_call_that_is_none_is_told(value: str, what: str) -> None:
    assert what in problem([{"conversations": [{"from": "human", "value": "hi"}, {"from": "function_call", "value": value}]}]).what


def test_thoughts_parts_and_train_flags_are_kept() -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "what is it?"}]
    row = {
        "messages": [
            {"role": "user", "content": parts},
            ANSWER | {"thinking": "hm"},
            USER,
            ANSWER | {"train": False},
            USER,
            ANSWER | {"weight": 0},
        ]
    }
    found = only(row)
    assert found[0]["content"] == parts
    assert found[1]["thinking"] == "hm"
    assert [m.get("train") for m in found] == [None, None, None, False, None, False]


def test_a_column_may_be_a_template() -> None:
    row = {"title": "Add.", "body": "1 2", "result": "3"}
    columns = {"prompt": "{title}\n{body}", "completion": "{result}"}
    assert only(row, columns=columns)[0]["content"] == "Add.\n1 2"
    assert only(row | {"body": ""}, columns=columns)[0]["content"] == "Add.", "no line for what is empty"
    assert read([row], columns={"text": "{title}: {result}"}, shape=RowShape.text)[1] == [{"text": "Add.: 3"}]
    assert "names ['boddy']" in problem([row], columns={"prompt": "{title}{boddy}", "completion": "result"}).what
    assert only({"a": "{result}", "result": "3"}, columns={"prompt": "{a}", "completion": "result"})[0]["content"] == "{result}", (
        "filled once"
    )


def test_other_names_are_taken_where_ours_are_missing_and_said() -> None:
    row = {"query": "hi", "response": "ho"}
    assert only(row) == [USER, ANSWER]
    assert str(recognise(row, Data())) == "question_answer (question: query, answer: response)" or "prompt: query" in str(
        recognise(row, Data())
    )
    assert only({"instruction": "hi", "context": "there", "response": "ho"})[0]["content"] == "hi\n\nthere"


def test_a_row_that_does_not_fit_can_be_skipped() -> None:
    rows = [SHAPES["messages"], {"messages": None}, SHAPES["messages"]]
    layout, found, skipped = read_all(rows, Data(on_error=OnError.skip), place=lambda index: f"row {index + 1}")
    assert (len(found), [p.where for p in skipped]) == (2, ["row 2"])
    with pytest.raises(TuneError, match="not laid out as"):
        read_all([{"messages": None}], Data(on_error=OnError.skip), place=str)
    assert layout.kind == "conversation"


def test_every_shape_of_the_schema_is_in_the_table() -> None:
    assert set(TABLE) == set(RowShape) - {RowShape.auto}


@pytest.mark.parametrize(
    ("folder", "count", "shape"),
    [
        ("alpaca_en", 999, "alpaca"),
        ("gsm8k", 7473, "question_answer"),
        ("toolcall_en", 300, "sharegpt"),
        ("kto_en", 300, "unpaired_preference"),
        ("dpo_en", 300, "preference"),
    ],
)
def test_real_sets_load(shared_data: Path, folder: str, count: int, shape: str) -> None:
    (file,) = (p for p in (shared_data / folder).iterdir() if p.stem == "train")
    lines = file.read_text(encoding="utf-8")
    rows = json.loads(lines) if file.suffix == ".json" else [json.loads(line) for line in lines.splitlines()]
    found, examples = read(rows)
    assert (found, len(examples)) == (shape, count)
