"""Recognises how rows are laid out and turns each into messages: `conversations(rows, data)` -> `[{"role": "user", "content": …}, …]`.

Shapes: messages, ShareGPT (`conversations` of from/value), Alpaca (instruction/input/output), prompt/completion, question/answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tuner.data.load import Row
from tuner.errors import TuneError
from tuner.schema.data import Data, RowShape

Messages = list[dict[str, str]]

# What each shape needs, under our names for the columns; `data.columns` maps them to a person's own.
NEEDS: dict[RowShape, tuple[str, ...]] = {
    RowShape.messages: ("messages",),
    RowShape.sharegpt: ("conversations",),
    RowShape.alpaca: ("instruction", "output"),
    RowShape.prompt_completion: ("prompt", "completion"),
    RowShape.question_answer: ("question", "answer"),
}
_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "bot": "assistant",
    "model": "assistant",
}


def recognise(row: Row, data: Data) -> RowShape:
    """The shape of a row: as said in the recipe, or by its columns. Raises TuneError (code 2) showing the columns and the known shapes."""
    have = set(row) | {ours for ours, theirs in data.columns.items() if theirs in row}
    if unknown := [theirs for theirs in data.columns.values() if theirs not in row]:
        raise TuneError(f"`data.columns` names {unknown}, but the rows have {sorted(row)}", "data.columns", "use the names of the rows")
    wanted = list(NEEDS) if data.shape is RowShape.auto else [data.shape]
    for shape in wanted:
        if have.issuperset(NEEDS[shape]):
            return shape
    shapes = "; ".join(f"{shape}: {', '.join(NEEDS[shape])}" for shape in wanted)
    expected = "no known shape" if data.shape is RowShape.auto else f"not `data.shape={data.shape}`"
    fix = f"expected {shapes}. Rename with `data.columns={{prompt: your_column, completion: other_column}}`"
    raise TuneError(f"{expected}: the rows have the columns {sorted(row)}; the first row: {str(row)[:200]}", "data", fix)


def conversations(rows: Sequence[Row], data: Data, *, place: Callable[[int], str]) -> tuple[RowShape, list[Messages]]:
    """All rows as messages. Raises TuneError (code 2) with the first row that does not fit and the `place` of its index."""
    shape = recognise(rows[0], data)
    convert = _CONVERTERS[shape]
    result = []
    for index, row in enumerate(rows):
        columns = row | {ours: row.get(theirs) for ours, theirs in data.columns.items()}
        try:
            messages = convert(columns)
            if not messages:
                raise _Misfit("an empty conversation")
        except _Misfit as error:
            what = f"not laid out as {shape}, as the first row is: {error}"
            raise TuneError(what, place(index), f"mend or remove this row: {str(row)[:160]}") from error
        if data.system and messages[0]["role"] != "system":
            messages = [{"role": "system", "content": data.system}, *messages]
        result.append(messages)
    return shape, result


def shared_system(found: list[Messages]) -> str | None:
    """The system message that every conversation opens with, when it is one and the same: what a user of the result should send too."""
    texts = {m[0]["content"] if m[0]["role"] == "system" else None for m in found}
    return texts.pop() if len(texts) == 1 else None


class _Misfit(Exception):
    """What a row lacks, in words."""


def _messages(row: Row) -> Messages:
    return [{"role": _text(m, "role"), "content": _text(m, "content")} for m in _turns(row, "messages")]


def _sharegpt(row: Row) -> Messages:
    turns = [(_text(m, "from"), _text(m, "value")) for m in _turns(row, "conversations")]
    return _system(row) + [{"role": _ROLES.get(role, role), "content": text} for role, text in turns]


def _alpaca(row: Row) -> Messages:
    request = _text(row, "instruction") + (f"\n\n{_text(row, 'input')}" if row.get("input") else "")
    return [*_system(row), {"role": "user", "content": request}, {"role": "assistant", "content": _text(row, "output")}]


def _pair(ask: str, answer: str) -> Callable[[Row], Messages]:
    def convert(row: Row) -> Messages:
        return [{"role": "user", "content": _text(row, ask)}, {"role": "assistant", "content": _text(row, answer)}]

    return convert


def _system(row: Row) -> Messages:
    return [{"role": "system", "content": _text(row, "system")}] if row.get("system") else []


def _turns(row: Row, name: str) -> list[Any]:
    turns = row.get(name)
    if not isinstance(turns, list):
        raise _Misfit(f"`{name}` is {_kind(turns)}, not a list")
    return turns


def _text(part: Any, name: str) -> str:
    """The text under `name` of a row or of a message."""
    if not isinstance(part, dict):
        raise _Misfit(f"a message is {_kind(part)}, not a mapping")
    if name not in part:
        raise _Misfit(f"there is no `{name}` in {sorted(part)}")
    if not isinstance(part[name], str):
        raise _Misfit(f"`{name}` is {_kind(part[name])}, not text")
    return str(part[name])


def _kind(value: Any) -> str:
    """A value's type as JSON calls it."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


_CONVERTERS: dict[RowShape, Callable[[Row], Messages]] = {
    RowShape.messages: _messages,
    RowShape.sharegpt: _sharegpt,
    RowShape.alpaca: _alpaca,
    RowShape.prompt_completion: _pair("prompt", "completion"),
    RowShape.question_answer: _pair("question", "answer"),
}
