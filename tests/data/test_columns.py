"""Recognising row layouts: every shape becomes the same messages, and what does not fit is told with what was found and expected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tuner.data.columns import conversations, shared_system
from tuner.data.load import read_rows
from tuner.errors import TuneError
from tuner.schema.data import Data, RowShape

USER, ANSWER, SYSTEM = ({"role": r, "content": c} for r, c in (("user", "hi"), ("assistant", "ho"), ("system", "be brief")))

SHAPES: dict[str, dict[str, Any]] = {
    "messages": {"messages": [USER, ANSWER]},
    "sharegpt": {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]},
    "alpaca": {"instruction": "hi", "input": "", "output": "ho"},
    "prompt_completion": {"prompt": "hi", "completion": "ho"},
    "question_answer": {"question": "hi", "answer": "ho"},
}


def only(row: dict[str, Any], **data: Any) -> list[dict[str, str]]:
    (found,) = conversations([row], Data(**data), place=str)[1]
    return found


def problem(rows: list[dict[str, Any]], **data: Any) -> Any:
    with pytest.raises(TuneError) as caught:
        conversations(rows, Data(**data), place=lambda index: f"train.jsonl:{index + 1}")
    assert caught.value.code == 2
    return caught.value.problems[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_is_recognised_and_gives_the_same_messages(shape: str) -> None:
    assert conversations([SHAPES[shape]], Data(), place=str) == (RowShape(shape), [[USER, ANSWER]])


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
    names = ["system", "human", "function_call", "observation", "gpt", "user", "assistant", "bot"]
    found = only({"conversations": [{"from": n, "value": n} for n in names]})
    assert [m["role"] for m in found] == ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "assistant"]


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
    for shape, needs in {"messages": "messages", "alpaca": "instruction, output", "prompt_completion": "prompt, completion"}.items():
        assert f"{shape}: {needs}" in found.fix
    assert "data.columns={prompt: your_column, completion: other_column}" in found.fix


def test_a_said_shape_that_does_not_fit_is_told_with_its_columns() -> None:
    found = problem([SHAPES["alpaca"]], shape=RowShape.question_answer)
    assert found.what.startswith("not `data.shape=question_answer`: the rows have the columns ['input', 'instruction', 'output']")
    assert "question_answer: question, answer" in found.fix
    assert "alpaca" not in found.fix


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({"question": "q", "answer": "a"}, "prompt"),
        ({"prompt": "q"}, "completion"),
        ({"prompt": "q", "completion": None}, "null"),
        ({"prompt": "q", "completion": 3}, "a number"),
        ({"prompt": "q", "completion": ["a"]}, "a list"),
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
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]},
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
    _, found = conversations(rows, Data(system="be brief"), place=str)
    assert [m[0] for m in found] == [SYSTEM, {"role": "system", "content": "own"}]
    assert [len(m) for m in found] == [3, 3]
    assert rows[0] == {"messages": [USER, ANSWER]}, "the rows themselves are left as they were"


def test_the_system_message_all_share() -> None:
    assert shared_system([[SYSTEM, USER], [SYSTEM, ANSWER]]) == "be brief"
    assert shared_system([[SYSTEM, USER], [USER]]) is None
    assert shared_system([[SYSTEM, USER], [{"role": "system", "content": "other"}, USER]]) is None
    assert shared_system([[USER]]) is None


@pytest.mark.parametrize(
    ("folder", "count", "shape"),
    [
        ("alpaca_en", 999, RowShape.alpaca),
        ("gsm8k", 7473, RowShape.question_answer),
        ("toolcall_en", 300, RowShape.sharegpt),
        ("kto_en", 300, RowShape.messages),
    ],
)
def test_real_sets_load(shared_data: Path, folder: str, count: int, shape: RowShape) -> None:
    (file,) = (p for p in (shared_data / folder).iterdir() if p.stem == "train")
    found, messages = conversations(read_rows([str(file)], Data()), Data(), place=str)
    assert (found, len(messages)) == (shape, count)
    roles = {m["role"] for conversation in messages for m in conversation}
    assert {"user", "assistant"} <= roles <= {"system", "user", "assistant", "tool"}
