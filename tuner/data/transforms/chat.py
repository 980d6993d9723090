"""Steps for conversations: `STEPS["merge_same_role"]`. What each does is said in schema/transforms/chat.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from tuner.data.transforms.steps import Row, Step, kept, mapped
from tuner.data.turns import ROLES

Turn = dict[str, Any]
PARTS = ("prompt", "completion", "chosen", "rejected")  # of a conversation that stands in several columns
WHOLE = ("messages", "conversations")


def talks(row: Row) -> Iterator[tuple[str, list[Turn]]]:
    """(column, messages) of each column that holds messages, a conversation's beginnings and ends too."""
    for name, value in row.items():
        if (
            isinstance(value, list)
            and all(isinstance(t, dict) and ("role" in t or "from" in t) for t in value)
            and (value or name in WHOLE)
        ):
            yield name, value


def _wholes(row: Row, fields: Sequence[str]) -> Iterator[list[Turn]]:
    """The conversations of a row: a column of messages, or a prompt with what follows it (completion, chosen, rejected)."""
    found = dict(talks(row))
    if fields:
        yield from (row[name] for name in fields if isinstance(row.get(name), list))
        return
    yield from (turns for name, turns in found.items() if name not in PARTS)
    if not any(name in found for name in PARTS):
        return
    start = _as_turns(row.get("prompt"), "user")
    for name in PARTS[1:]:
        if end := _as_turns(row.get(name), "assistant"):
            yield end if end[: len(start)] == start else start + end


def _as_turns(value: Any, speaker: str) -> list[Turn]:
    """Messages, or a text as one message."""
    if isinstance(value, str):
        return [{"role": speaker, "content": value}]
    return value if isinstance(value, list) else []


def role(turn: Turn) -> str:
    """Who speaks, under the name that Transformers has for it."""
    named = str(turn.get("role", turn.get("from")))
    return ROLES.get(named, named)


def _spoken(turns: list[Turn]) -> list[Turn]:
    return [t for t in turns if role(t) != "system"]


def _all(judge: Callable[[Any, list[Turn]], bool]) -> Step:
    """Keeps the rows all of whose conversations pass."""
    return kept(lambda step: lambda row: all(judge(step, turns) for turns in _wholes(row, step.fields)))


def _each(change: Callable[[Any, list[Turn]], list[Turn]], *, but: Sequence[str] = ()) -> Step:
    """Changes the messages of every column, `but` of some where they are not asked for."""

    def columns(step: Any, row: Row) -> Iterator[tuple[str, list[Turn]]]:
        wanted = step.fields or [name for name in row if name not in but]
        return talks({name: row[name] for name in wanted if name in row})

    return mapped(lambda step: lambda row: row | {name: change(step, turns) for name, turns in columns(step, row)})


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
    "truncate_turns": _each(_first_turns, but=PARTS),
    "drop_last_user_turn": _each(_without_last_user, but=("prompt",)),
    "require_assistant_last": _all(lambda step, turns: bool(turns) and role(turns[-1]) == "assistant"),
    "require_alternation": _all(_alternate),
    "merge_same_role": _each(_merged),
    "drop_system": _each(lambda step, turns: _spoken(turns)),
    "drop_empty_turns": _each(lambda step, turns: [t for t in turns if _says_something(t)]),
}
