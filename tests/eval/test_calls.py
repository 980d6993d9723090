"""Calls of functions in answers: found whatever stands around them, valid by their schemas, measured in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.lab import make_lab, task_of
from tuner.data.splits import held_out
from tuner.errors import TuneError
from tuner.eval.calls import calls_in, score, up_to_call

WEATHER = {"name": "weather", "parameters": {"type": "object", "required": ["city"], "properties": {
    "city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string", "enum": ["C", "F"]}}}}  # fmt: skip
TOOLS = [{"type": "function", "function": WEATHER}, {"name": "time", "parameters": {}}]
RIGHT = '{"name": "weather", "arguments": {"city": "Ulm"}}'


@pytest.mark.parametrize(
    ("answer", "valid", "match"),
    [
        (RIGHT, 1, 1),
        (f"<tool_call>\n{RIGHT}\n</tool_call>", 1, 1),
        (f"[TOOL_CALLS] [{RIGHT}]", 1, 1),
        ('{"name": "weather", "parameters": {"city": "Ulm"}}', 1, 1),
        ('{"name": "weather", "arguments": "{\\"city\\": \\"Ulm\\"}"}', 1, 1),
        ('{"name": "weather", "arguments": {"city": "Ulm", "days": 2, "unit": "C"}}', 1, 0),
        ('{"name": "weather", "arguments": {"city": 3}}', 0, 0),
        ('{"name": "weather", "arguments": {"city": "Ulm", "days": true}}', 0, 0),
        ('{"name": "weather", "arguments": {"city": "Ulm", "unit": "K"}}', 0, 0),
        ('{"name": "weather", "arguments": {"days": 2}}', 0, 0),
        ('{"name": "weather", "arguments": {"city": "Ulm", "zip": 1}}', 0, 0),
        ('{"name": "weather", "arguments": {"city": "Ulm"', 0, 0),
        ('{"name": "wether", "arguments": {"city": "Ulm"}}', 0, 0),
        ('{"name": "time", "arguments": {}}', 1, 0),
        (f"{RIGHT} {RIGHT}", 1, 0),
        ("It is sunny.", 0, 0),
    ],
)
def test_an_answer_calls_what_it_should(answer: str, valid: int, match: int) -> None:
    assert score(answer, f"<tool_call>{RIGHT}</tool_call>", TOOLS) == {"valid_call": valid, "call_match": match}


def test_where_no_call_is_asked_for_none_is_right() -> None:
    assert score("It is sunny [1].", "Sunny.", TOOLS) == {"valid_call": 1, "call_match": 1}
    assert score(RIGHT, "Sunny.", TOOLS) == {"valid_call": 0, "call_match": 0}
    assert list(calls_in('{"a": [{"name": 1}] ] {"name": "x", "arguments": {}}')) == [{"name": "x", "arguments": {}}]


def test_a_conversation_is_measured_at_its_last_call(tmp_path: Path) -> None:
    def talk(city: str) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        asked = [{"role": "user", "content": f"How is it in {city}?"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
        return {"messages": [*asked, {"role": "tool", "content": "fine"}, {"role": "assistant", "content": "Fine."}], "tools": [WEATHER]}

    lab = make_lab(tmp_path)
    for name in ("train", "eval"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(talk(city)) + "\n" for city in ("Ulm", "Bonn")))
    run = lab.run("eval=tools", "eval.max_new_tokens=4")
    rows = task_of(run).score(run, task_of(run).load(run), held_out(run))
    assert [row.scores for row in rows] == [{"valid_call": 0.0, "call_match": 0.0}] * 2
    assert all('"Ulm"' in row.reference or '"Bonn"' in row.reference for row in rows)
    assert [m["role"] for m in rows[0].prompt] == ["user"]
    plain = lab.run("eval.max_new_tokens=4")
    assert [row.reference for row in task_of(plain).score(plain, task_of(plain).load(plain), held_out(plain))] == ["Fine.", "Fine."]
    (tmp_path / "eval.jsonl").write_text(json.dumps({"messages": talk("Ulm")["messages"][:1] + talk("Ulm")["messages"][3:]}) + "\n")
    with pytest.raises(TuneError, match="no held-out row has `tools`"):
        task_of(run).check(run, held_out(lab.run("eval=tools")))
    assert up_to_call([{"role": "user"}]) == [{"role": "user"}]
