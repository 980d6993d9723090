"""Rows as messages, whatever they are called: `conversation({"conversations": [{"from": "human", "value": "hi"}]}, column=…)`.

Everything here takes a row under our column names (see shapes.py) and raises Misfit with what the row lacks.
"""

from __future__ import annotations

import json
from typing import Any

from tuner.data.likings import liked
from tuner.errors import nearest

Row = dict[str, Any]
Message = dict[str, Any]
Example = dict[str, Any]

ROLES = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function": "tool",
    "developer": "system",
}
KNOWN = ("system", "user", "assistant", "tool", "ipython", "documents", "context", "critic")  # what templates in use know
REASONING = ("reasoning_content", "reasoning", "thinking")


class Misfit(Exception):
    """What a row lacks, in words."""


def conversation(row: Row, *, column: str) -> Example:
    """Messages of either build (`role`/`content`, `from`/`value`), with the row's system message and tools."""
    messages = [message(turn) for turn in items(row, column)]
    if not messages:
        raise Misfit("an empty conversation")
    return {"messages": [*_system(row, messages), *messages], "tools": tools(row)}


def alpaca(row: Row) -> Example:
    """An instruction, with an input where there is one, and what came of it; `history` holds pairs said before."""
    said = [(str(a), str(b)) for a, b in row.get("history") or []]
    earlier = [m for a, b in said for m in ({"role": "user", "content": a}, {"role": "assistant", "content": b})]
    request = text(row, "instruction") + (f"\n\n{text(row, 'input')}" if row.get("input") else "")
    messages = [*earlier, {"role": "user", "content": request}, {"role": "assistant", "content": text(row, "output")}]
    return {"messages": [*_system(row, messages), *messages], "tools": None}


def asked(row: Row, *, ask: str, answer: str) -> Example:
    """A prompt and its completion; either may be a list of messages."""
    prompt = _said(row, ask, "user")
    messages = [*prompt, *_said(row, answer, "assistant")]
    system = _system(row, messages)
    return {"messages": [*system, *messages], "tools": tools(row), "answers_from": len(system) + len(prompt)}


def prompt(row: Row) -> Example:
    """What is asked, without an answer."""
    messages = _said(row, "prompt", "user")
    return {"messages": [*_system(row, messages), *messages], "tools": tools(row)}


def preference(row: Row) -> Example:
    """Two answers to one prompt. Without a prompt, it is what both conversations begin with."""
    chosen, rejected = _said(row, "chosen", "assistant"), _said(row, "rejected", "assistant")
    prompt = _prompt(row)
    if not prompt:
        shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), min(len(chosen), len(rejected)))
        prompt, chosen, rejected = chosen[:shared], chosen[shared:], rejected[shared:]
        if not prompt:
            raise Misfit("there is no prompt, and `chosen` and `rejected` begin differently")
    if not chosen or not rejected or is_silent({"messages": chosen}):
        raise Misfit("`chosen` and `rejected` are the same" if chosen == rejected else "an answer is empty")
    return {"prompt": [*_system(row, prompt), *prompt], "chosen": chosen, "rejected": rejected, "tools": tools(row)}


def unpaired(row: Row) -> Example:
    """One answer, and whether it was liked."""
    if (label := liked(row["label"])) is None:
        raise Misfit(f"`label` is {row['label']!r:.60}: whether the answer was liked is written as true or false, or as 1 or 0")
    if row.get("completion") is not None:
        prompt, completion = _prompt(row), _said(row, "completion", "assistant")
    else:
        messages = _prompt(row)
        if not messages or messages[-1]["role"] != "assistant":
            raise Misfit("the conversation does not end with the assistant's answer")
        prompt, completion = messages[:-1], messages[-1:]
    if not prompt or (label and is_silent({"messages": completion})):
        raise Misfit("an answer that was liked is empty" if prompt else "there is no prompt")
    return {"prompt": [*_system(row, prompt), *prompt], "completion": completion, "label": label, "tools": tools(row)}


def message(turn: Any) -> Message:
    """One message as Transformers' templates take it."""
    if not isinstance(turn, dict):
        raise Misfit(f"a message is {kind_of(turn)}, not a mapping")
    if len(turn) == 2 and turn.get("role") in KNOWN and isinstance(turn.get("content"), str):  # most are, of millions
        return {"role": turn["role"], "content": turn["content"]}
    named, worded = ("from", "value") if "from" in turn else ("role", "content")
    role = text(turn, named)
    found: Message = {"role": ROLES.get(role, role)}
    if found["role"] not in KNOWN:
        guess = nearest(role, [*KNOWN, *ROLES])
        raise Misfit(f"nobody has the role `{role}`" + (f": did you mean `{guess}`?" if guess else f" (roles: {', '.join(KNOWN[:4])})"))
    if role == "function_call":
        return found | {"content": "", "tool_calls": calls(text(turn, worded))}
    if turn.get("tool_calls"):
        found["tool_calls"] = [_call(c) for c in items(turn, "tool_calls")]
    content = turn.get(worded)
    if content is None and "tool_calls" in found:
        content = ""
    found["content"] = (
        content if isinstance(content, list) and content else text(turn | {worded: content} if content is not None else turn, worded)
    )
    found |= {key: turn[key] for key in (*REASONING, "name", "tool_call_id") if turn.get(key) is not None}
    if turn.get("train") is False or turn.get("weight") == 0:
        found["train"] = False
    return found


def is_silent(example: Example) -> bool:
    """Whether the assistant says nothing in a conversation, though it has a turn."""
    answers = [m for m in example["messages"] if m["role"] == "assistant"]
    return bool(answers) and not any(m.get("tool_calls") or str(m["content"]).strip() for m in answers)


def calls(said: str) -> list[dict[str, Any]]:
    """Tool calls out of the JSON that ShareGPT rows hold: one call, or a list of them."""
    try:
        value = json.loads(said)
    except ValueError as error:
        raise Misfit(f"a function_call is no JSON: {said[:80]}") from error
    return [_call(c) for c in (value if isinstance(value, list) else [value])]


def _call(value: Any) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise Misfit(f"a tool call has no name: {str(value)[:80]}")
    arguments = function.get("arguments", function.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except ValueError as error:
            raise Misfit(f"the arguments of a tool call are no JSON: {arguments[:80]}") from error
    identity = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def tools(row: Row) -> list[dict[str, Any]] | None:
    """The row's tools as JSON schemas; JSON text is parsed."""
    found: Any = row.get("tools")
    if isinstance(found, str):
        try:
            found = json.loads(found) if found.strip() else None
        except ValueError as error:
            raise Misfit(f"`tools` is no JSON: {found[:80]}") from error
    if not found:
        return None
    if not isinstance(found, list) or not all(isinstance(t, dict) for t in found):
        raise Misfit(f"`tools` is {kind_of(found)}, not a list of mappings")
    return [t if "function" in t else {"type": "function", "function": t} for t in found]


def _prompt(row: Row) -> list[Message]:
    """What was said before the answers of a preference row, under whichever name it has."""
    for name in ("prompt", "messages", "conversations"):
        if row.get(name):
            return _said(row, name, "user")
    if row.get("instruction"):
        return [{"role": "user", "content": text(row, "instruction") + (f"\n\n{text(row, 'input')}" if row.get("input") else "")}]
    return _said(row, "question", "user") if row.get("question") else []


def _said(row: Row, name: str, role: str) -> list[Message]:
    """A column that holds text, one message or several."""
    value = row.get(name)
    if isinstance(value, dict):
        return [message(value)]
    if isinstance(value, list):
        return [message(turn) for turn in value]
    return [{"role": role, "content": text(row, name)}]


def _system(row: Row, messages: list[Message]) -> list[Message]:
    has_one = bool(messages) and messages[0]["role"] == "system"
    return [{"role": "system", "content": text(row, "system")}] if row.get("system") and not has_one else []


def items(row: Row, name: str) -> list[Any]:
    """The list under `name`; one written as JSON (in a CSV cell) is parsed."""
    value = row.get(name)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Misfit(f"`{name}` is text that is no JSON list: {value[:80]}") from error
    if not isinstance(value, list):
        raise Misfit(f"`{name}` is {kind_of(value)}, not a list")
    return value


def text(part: Row, name: str) -> str:
    """The text under `name`."""
    if name not in part:
        raise Misfit(f"there is no `{name}` in {sorted(part)}")
    if not isinstance(part[name], str):
        raise Misfit(f"`{name}` is {kind_of(part[name])}, not text")
    return str(part[name])


def kind_of(value: Any) -> str:
    """A value's type as JSON calls it."""
    names = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
