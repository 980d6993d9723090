"""Probes of a chat template: messages with a sentinel for their text, and finding text and glue again in what was rendered.

with_sentinel({"role": "user", "content": "hi"}, 0)    -> {"role": "user", "content": "QqS0EqQ"}
place("<u>hi</u>", [that message], [(0, "<u>"), (-1, "</u>")])  -> [(0, 0, 3, 5)]
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

from tuner.data.turns import REASONING, Message

THOUGHT = "</think>"
SENTINEL = re.compile(r"QqS(\d+)EqQ")


def structure(messages: list[Message], tools: list[Any] | None) -> tuple[Any, ...] | None:
    """What the glue of most templates depends on; None where it holds text of the messages itself (tool calls, reasoning, parts)."""
    if tools:
        return None
    for message in messages:
        if len(message) > 2 or not isinstance(message.get("content"), str) or THOUGHT in message["content"]:
            return None
    return tuple([m["role"] for m in messages])


def rendered(messages: list[Message], tools: list[Any] | None, tokenizer: PreTrainedTokenizerBase, **options: Any) -> str:
    """As the tokenizer's template writes them. For mere texts, what Transformers makes sure of takes as long again."""
    if structure(messages, tools):
        given = {**tokenizer.special_tokens_map, **options, "messages": messages, "tools": None, "documents": None}
        return str(_compile_jinja_template(tokenizer.get_chat_template()).render(**given))
    return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options))


def in_parts(message: Message) -> Message:
    """The message with its text as a list of parts."""
    content = message.get("content")
    return message | {"content": [{"type": "text", "text": content}]} if isinstance(content, str) else message


def with_text_arguments(message: Message) -> Message:
    """The message with the arguments of its tool calls as JSON text."""
    if not message.get("tool_calls"):
        return message
    message = copy.deepcopy(message)
    for call in message["tool_calls"]:
        function = call.get("function", call)
        if not isinstance(function["arguments"], str):
            function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return message


def with_words_as_thoughts(message: Message) -> Message:
    """The message with what it says beside a tool call at the end of its thoughts, for a template that takes but one of them."""
    thoughts = next((key for key in REASONING if message.get(key)), None)
    if thoughts is None or not message.get("tool_calls") or not message.get("content"):
        return message
    return message | {thoughts: f"{message[thoughts]}\n\n{message['content']}", "content": ""}


def with_sentinel(message: Message, index: int) -> Message:
    """The message with a sentinel for its text: the name of its first tool call, its content, or the first of its text parts."""
    sentinel = f"QqS{index}EqQ"
    probe = copy.deepcopy(message)
    content = probe.get("content")
    if calls := probe.get("tool_calls"):  # the turn ends behind it, and some templates drop what else the message says
        calls[0]["function"]["name"] = sentinel
        return probe
    if isinstance(content, list):
        part = next((p for p in content if isinstance(p, dict) and "text" in p), None)
        if part is not None:
            part["text"] = sentinel
            return probe
    thoughts, end, answer = str(content or "").rpartition(THOUGHT)
    probe["content"] = thoughts + end + _leading_space(answer) * bool(end) + sentinel
    return probe


def _leading_space(text: str) -> str:
    return text[: len(text) - len(text.lstrip())]


def texts(message: Message) -> Iterator[str]:
    """How a message's text may stand in the rendered one, the likeliest first."""
    content = message.get("content")
    if calls := message.get("tool_calls"):
        content = calls[0]["function"]["name"]
    elif isinstance(content, list):
        content = next((p["text"] for p in content if isinstance(p, dict) and "text" in p), "")
    _, end, answer = str(content or "").rpartition(THOUGHT)
    text = answer.lstrip() if end else answer
    yield text
    yield text.strip()


def place(text: str, messages: list[Message], glue: list[tuple[int, str]]) -> list[tuple[int, int, int, int]] | None:
    """[(message, where its glue starts, where it starts, where it ends)] in the text's order; None when text and glue do not fit."""
    placed, position = [], 0
    for (index, before), (_, after) in pairwise(glue):
        if not text.startswith(before, position):
            return None
        start = position + len(before)
        end = next((start + len(t) for t in texts(messages[index]) if text.startswith(t + after, start)), None)
        if end is None:  # the template changed the message: it ends where the next glue begins
            end = text.find(after, start) if after else -1
            if end < 0:
                return None
        placed.append((index, position, start, end))
        position = end
    return placed if text[position:] == glue[-1][1] else None
