"""Calls of functions in an answer: `score(answer, reference, tools)` -> {"valid_call": 1.0, "call_match": 0.0}, whatever stands around.

A call is a JSON object with a `name` and `arguments` (or `parameters`), wherever it stands in the text, by itself or in a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tuner.data.turns import Message

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}
_DECODER = json.JSONDecoder()


def up_to_call(messages: list[Message]) -> list[Message]:
    """A conversation up to its last call, where it has one: what is asked for then is the call."""
    last = max((i for i, m in enumerate(messages) if m.get("tool_calls")), default=None)
    return messages if last is None else messages[: last + 1]


def score(answer: str, reference: str, tools: list[dict[str, Any]]) -> dict[str, float]:
    """`valid_call`: the answer calls known functions as their schemas say, and calls none where none is asked for; `call_match`: the
    calls are those of the reference, arguments and all.
    """
    made, wanted, known = list(calls_in(answer)), list(calls_in(reference)), dict(map(_declared, tools))
    valid = bool(made) == bool(wanted) and all(_valid(call, known) for call in made)
    return {"valid_call": float(valid), "call_match": float(made == wanted)}


def calls_in(text: str) -> Iterator[dict[str, Any]]:
    """The calls of a text in their order, as {"name": …, "arguments": {…}}."""
    at = 0
    while (found := min((i for i in (text.find("{", at), text.find("[", at)) if i >= 0), default=-1)) >= 0:
        try:
            value, at = _DECODER.raw_decode(text, found)
        except (ValueError, RecursionError):
            at = found + 1
            continue
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict) and isinstance(one.get("name"), str) and ("arguments" in one or "parameters" in one):
                given = one.get("arguments", one.get("parameters"))
                yield {"name": one["name"], "arguments": _read(given)}


def _read(given: Any) -> Any:
    """Arguments, which some templates write as a text that is JSON."""
    if not isinstance(given, str):
        return given
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        return given


def _declared(tool: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    function = tool.get("function", tool)
    return str(function.get("name")), function.get("parameters") or {}


def _valid(call: dict[str, Any], known: dict[str, dict[str, Any]]) -> bool:
    """Whether a function of this name is there, and its arguments are those that it needs and has, of the right types."""
    schema, given = known.get(call["name"]), call["arguments"]
    if schema is None or not isinstance(given, dict):
        return False
    properties = schema.get("properties") or {}
    if not set(schema.get("required") or ()) <= set(given) or (properties and not set(given) <= set(properties)):
        return False
    return all(_fits(value, properties.get(name, {})) for name, value in given.items())


def _fits(value: Any, schema: dict[str, Any]) -> bool:
    kinds = schema.get("type", [])
    wanted = [kind for name in (kinds if isinstance(kinds, list) else [kinds]) for kind in TYPES.get(name, (object,))]
    typed = not wanted or (isinstance(value, tuple(wanted)) and (not isinstance(value, bool) or bool in wanted or object in wanted))
    return typed and ("enum" not in schema or value in schema["enum"])
