"""The quickstart's data: what is committed is what the script writes, and the evaluation rows are really unseen."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_tickets.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_tickets", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tickets = _load()


def committed(split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tickets.OUT / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def answers(split: str) -> list[dict[str, Any]]:
    return [json.loads(row["messages"][2]["content"]) for row in committed(split)]


@pytest.mark.parametrize("split", tickets.ROWS)
def test_the_committed_file_is_what_the_script_writes(split: str) -> None:
    written = (tickets.OUT / f"{split}.jsonl").read_bytes()
    assert written == tickets.render(split).encode() == tickets.render(split).encode()


@pytest.mark.parametrize(("one", "other"), [("train", "dev"), ("train", "eval"), ("dev", "eval")])
def test_no_clause_product_or_name_is_in_two_files(one: str, other: str) -> None:
    assert tickets.separation(one, committed(one), other, committed(other)) == []


@pytest.mark.parametrize("kind", ["problems", "urgency", "products", "first_names", "signatures"])
def test_separation_sees_a_leak(kind: str) -> None:
    value = tickets.POOLS["eval"][kind]
    while not isinstance(value, str):
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    rows = copy.deepcopy(committed("train")[:20])
    rows[7]["messages"][1]["content"] += "\n" + value.format(product="yacht", customer="Someone Else")
    assert any(line.endswith(value) for line in tickets.separation("train", rows, "eval", committed("eval")))


@pytest.mark.parametrize(("split", "least"), [("train", 400), ("dev", 100), ("eval", 100)])
def test_rows_are_many_distinct_and_balanced(split: str, least: int) -> None:
    messages = [row["messages"][1]["content"] for row in committed(split)]
    assert len(set(messages)) == len(messages) == tickets.ROWS[split] >= least
    pairs = [(a["intent"], a["urgency"]) for a in answers(split)]
    assert {pairs.count(pair) for pair in pairs} == {len(pairs) // 18}
    assert {intent for intent, _ in pairs} == set(tickets.INTENTS)
    unsigned = sum(a["customer"] is None for a in answers(split))
    assert 0.15 < unsigned / len(pairs) < 0.45


@pytest.mark.parametrize("split", tickets.ROWS)
def test_every_answer_is_in_the_message(split: str) -> None:
    for row, answer in zip(committed(split), answers(split), strict=True):
        system, user, assistant = row["messages"]
        assert [system["role"], user["role"], assistant["role"]] == ["system", "user", "assistant"]
        assert assistant["content"] == json.dumps(answer)
        assert list(answer) == tickets.KEYS
        assert answer["intent"] in system["content"]
        assert answer["urgency"] in system["content"]
        assert user["content"].count(answer["product"]) == 1
        assert answer["customer"] is None or user["content"].count(answer["customer"]) == 1
