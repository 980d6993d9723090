"""Conversations written without running the template: `Forms(masker).of(messages, None)` -> a Form, whose `fill(messages)` gives the text.

Where a template demonstrably looks at nothing of a message but its role, and only writes its content out (ChatML, SmolLM2 …), the text of
all conversations with the same roles is the same form with other contents in it. The proof is by the template's syntax, so nothing is
assumed: any other use of a message (a filter, a test, a variable, a loop's neighbours), and conversations are rendered one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

from jinja2 import TemplateError, nodes
from transformers.utils.chat_template_utils import _compile_jinja_template

from tuner.data.masks import Masker, Span
from tuner.data.probes import SENTINEL, structure, with_sentinel
from tuner.data.turns import Message
from tuner.errors import TuneError

MOST_FORMS = 4096  # kept, by sequence of roles
# What catches a text before it is written, or writes it otherwise.
_CATCHES = (nodes.Macro, nodes.CallBlock, nodes.AssignBlock, nodes.FilterBlock, nodes.ScopedEvalContextModifier)


@dataclass(frozen=True, kw_only=True)
class Form:
    """`parts`: glue, "", glue, "", … glue. `turns`: an assistant's message, and how far its turn begins before it and ends behind it."""

    parts: list[str]
    turns: list[tuple[int, int, int]]

    def fill(self, messages: list[Message]) -> tuple[str, dict[int, Span]]:
        """The text, and each assistant message's characters in it, as `Masker.turns` gives them."""
        parts = self.parts.copy()
        parts[1::2] = [m["content"] for m in messages]
        ends = list(accumulate(map(len, parts)))
        return "".join(parts), {i: (ends[2 * i] - before, ends[2 * i + 1] + behind) for i, before, behind in self.turns}


class Forms:
    """The forms of one template, each made from its first conversation."""

    def __init__(self, masker: Masker) -> None:
        self.masker = masker
        self._proven = is_form(str(masker.tokenizer.chat_template))
        self._kept: dict[tuple[Any, ...], Form | None] = {}

    def of(self, messages: list[Message], tools: list[Any] | None) -> Form | None:
        """The form of a conversation; None where it has none."""
        if not self._proven or (key := structure(messages, tools)) is None:
            return None
        if key not in self._kept and len(self._kept) < MOST_FORMS:
            self._kept[key] = self._made([with_sentinel(m | {"content": ""}, i) for i, m in enumerate(messages)])
        return self._kept.get(key)

    def _made(self, probe: list[Message]) -> Form | None:
        try:
            text = self.masker.render(probe)
            turns = self.masker.turns(probe, text)
        except TuneError:  # told of where the conversation itself is rendered
            return None
        marks = list(SENTINEL.finditer(text))
        if [int(m.group(1)) for m in marks] != list(range(len(probe))):
            return None
        parts = SENTINEL.sub("\0", text).split("\0")
        if len(parts) != len(probe) + 1 or any(m["role"] == "assistant" and i not in turns for i, m in enumerate(probe)):
            return None
        found = [(i, marks[i].start() - start, end - marks[i].end()) for i, (start, end) in turns.items()]
        if any(before < 0 or behind < 0 for _, before, behind in found):
            return None
        return Form(parts=[piece for part in parts for piece in (part, "")][:-1], turns=found)


def is_form(template: str) -> bool:
    """Whether a template uses of messages only their roles and their number, and of contents nothing but to write them out."""
    try:
        tree = _compile_jinja_template(template).environment.parse(template)
    except TemplateError:  # told of where a conversation is rendered
        return False
    loops = [loop for loop in tree.find_all(nodes.For) if _are_messages(loop.iter)]
    items = {loop.target.name for loop in loops if isinstance(loop.target, nodes.Name)}
    if any(not isinstance(loop.target, nodes.Name) or loop.recursive for loop in loops):
        return False
    return all(_harmless(path, items) for path in _paths(tree, ()))


def _paths(node: nodes.Node, above: tuple[nodes.Node, ...]) -> Iterator[tuple[nodes.Node, ...]]:
    """Every node with what stands above it: (the node, its parent, …, the template)."""
    path = (node, *above)
    yield path
    for child in node.iter_child_nodes():
        yield from _paths(child, path)


def _are_messages(node: nodes.Node) -> bool:
    """`messages`, or a slice of it by numbers."""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice):
        node = node.node if all(isinstance(n, nodes.Const | nodes.Neg) for n in node.arg.iter_child_nodes()) else node
    return isinstance(node, nodes.Name) and node.name == "messages"


def _harmless(path: tuple[nodes.Node, ...], items: set[str]) -> bool:
    node, *above = path
    if isinstance(node, nodes.Getattr) and node.attr in ("previtem", "nextitem", "changed"):
        return False
    if isinstance(node, nodes.Filter) and node.name == "random":
        return False
    if not isinstance(node, nodes.Name) or node.name not in {"messages", *items}:
        return True
    parent = above[0]
    if node.name == "messages":
        if isinstance(parent, nodes.Filter):
            return parent.name in ("length", "count") and not parent.args
        if _are_messages(parent):  # the slice
            parent, above = above[1], above[1:]
        if isinstance(parent, nodes.For):
            return _are_messages(parent.iter) and parent.test is None
        if not (isinstance(parent, nodes.Getitem) and isinstance(parent.arg, nodes.Const) and isinstance(parent.arg.value, int)):
            return False
        above = above[1:]  # one message
        if not above or not isinstance(above[0], nodes.Getitem | nodes.Getattr):
            return False
    elif isinstance(parent, nodes.For) and parent.target is node:
        return _are_messages(parent.iter)
    return _field(above)


def _field(above: list[nodes.Node]) -> bool:
    """Whether what stands above a message takes its role, a field that it has not, or its content to write it out."""
    field, *above = above
    if isinstance(field, nodes.Getattr):
        name = field.attr
    elif isinstance(field, nodes.Getitem) and isinstance(field.arg, nodes.Const):
        name = field.arg.value
    else:
        return False
    if name != "content":
        return isinstance(name, str) and name not in dir(dict)
    while above and isinstance(above[0], nodes.Add | nodes.Concat):
        above = above[1:]
    return bool(above) and isinstance(above[0], nodes.Output) and not any(isinstance(n, _CATCHES) for n in above)
