"""Steps for conversations: `STEPS["merge_same_role"]`. What each does is said in schema/transforms/chat.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from tuner.data.transforms.steps import Row, Step, kept, mapped
from tuner.data.turns import ROLES

Turn = dict[str, Any]
PARTS = ("prompt", "completion", "chosen", "rejected")  # a conversation's beginning or end: a rule for whole ones would be wrong there
WHOLE = ("messages", "conversations")


def conversations(row: Row, fields: Sequence[str]) -> Iterator[tuple[str, list[Turn]]]:
    """(column, messages) of each column that holds a whole conversation, or of `fields`."""
    for name in fields or [n for n in row if n not in PARTS]:
        value: Any = row.get(name)
        is_talk = isinstance(value, list) and all(isinstance(t, dict) and ("role" in t or "from" in t) for t in value)
        if is_talk and (value or fields or name in WHOLE):
            yield name, value


def role(turn: Turn) -> str:
    """Who speaks, under the name that Transformers has for it."""
    named = str(turn.get("role", turn.get("from")))
    return ROLES.get(named, named)


def _spoken(turns: list[Turn]) -> list[Turn]:
    return [t for t in turns if role(t) != "system"]


def _all(judge: Callable[[Any, list[Turn]], bool]) -> Step:
    """Keeps the rows all of whose conversations pass."""
    return kept(lambda step: lambda row: all(judge(step, turns) for _, turns in conversations(row, step.fields)))


def _each(change: Callable[[Any, list[Turn]], list[Turn]]) -> Step:
    """Changes every conversation."""
    return mapped(lambda step: lambda row: row | {name: change(step, turns) for name, turns in conversations(row, step.fields)})


def _alternate(step: Any, turns: list[Turn]) -> bool:
    said = [role(t) for t in _spoken(turns) if role(t) != "tool"]
    calls = [bool(t.get("tool_calls")) for t in _spoken(turns) if role(t) != "tool"]
    after = [b for (a, b), called in zip(pairwise(said), calls, strict=False) if a == b and not called]
    return bool(said) and said[0] == "user" and not after and set(said) <= {"user", "assistant"}


def _first_turns(step: Any, turns: list[Turn]) -> list[Turn]:
    system = [t for t in turns if role(t) == "system"]
    return turns if len(_spoken(turns)) <= step.most else system + _spoken(turns)[: step.most]


def _without_last_user(step: Any, turns: list[Turn]) -> list[Turn]:
    end = len(turns)
    while end and role(turns[end - 1]) == "user":
        end -= 1
    return turns[:end]


def _merged(step: Any, turns: list[Turn]) -> list[Turn]:
    made: list[Turn] = []
    for turn in turns:
        key = "content" if "role" in turn else "value"
        before = made[-1] if made else {}
        same = bool(before) and before.keys() == turn.keys() == {("role" if "role" in turn else "from"), key} and role(before) == role(turn)
        if same and isinstance(before[key], str) and isinstance(turn[key], str):
            made[-1] = before | {key: before[key] + step.by + turn[key]}
        else:
            made.append(turn)
    return made


def _says_something(turn: Turn) -> bool:
    said = turn.get("content", turn.get("value"))
    return bool(turn.get("tool_calls") or (said.strip() if isinstance(said, str) else said))


STEPS: dict[str, Step] = {
    "min_turns": _all(lambda step, turns: len(_spoken(turns)) >= step.least),
    "max_turns": _all(lambda step, turns: len(_spoken(turns)) <= step.most),
    "truncate_turns": _each(_first_turns),
    "drop_last_user_turn": _each(_without_last_user),
    "require_assistant_last": _all(lambda step, turns: bool(turns) and role(turns[-1]) == "assistant"),
    "require_alternation": _all(_alternate),
    "merge_same_role": _each(_merged),
    "drop_system": _each(lambda step, turns: _spoken(turns)),
    "drop_empty_turns": _each(lambda step, turns: [t for t in turns if _says_something(t)]),
}
