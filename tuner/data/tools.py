"""Tool calls as plain text, for chat templates that know none: `written_out(messages, tools)` -> messages without either.

    {"role": "assistant", "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Ulm"}}}]}
    -> {"role": "assistant", "content": '<tool_call>\\n{"name": "weather", "arguments": {"city": "Ulm"}}\\n</tool_call>'}

The marks are those that Hermes and Qwen models use (https://github.com/NousResearch/Hermes-Function-Calling).
"""

from __future__ import annotations

import json
from typing import Any

from tuner.data.turns import Message

INTRODUCTION = 'These functions can be called. A call is written as <tool_call>\n{"name": …, "arguments": {…}}\n</tool_call>.'


def written_out(messages: list[Message], tools: list[Any] | None) -> list[Message]:
    """Calls and results as the text of their messages, and the tools' schemas at the end of the system message."""
    found = [_written(m) for m in messages]
    if not tools:
        return found
    schemas = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    told = f"{INTRODUCTION}\n<tools>\n{schemas}\n</tools>"
    if found and found[0]["role"] == "system":
        return [found[0] | {"content": f"{found[0]['content']}\n\n{told}"}, *found[1:]]
    return [{"role": "system", "content": told}, *found]


def _written(message: Message) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    if not message.get("tool_calls"):
        return message
    calls = [json.dumps({k: call["function"][k] for k in ("name", "arguments")}, ensure_ascii=False) for call in message["tool_calls"]]
    texts = [str(message["content"])] * bool(message["content"]) + [f"<tool_call>\n{call}\n</tool_call>" for call in calls]
    return {k: v for k, v in message.items() if k != "tool_calls"} | {"content": "\n".join(texts)}
