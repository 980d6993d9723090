"""Conversations to token rows with loss masks: `tokenize(conversations, tokenizer, task)` -> ids, and which of them are trained.

A mask comes from character positions in the rendered text (see masks.py): a token is trained when it starts inside a trained turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.forms import Forms
from tuner.data.masks import Masker, Span
from tuner.data.template import Template
from tuner.data.tokens import Encoder
from tuner.data.tools import written_out
from tuner.data.turns import Example, Message
from tuner.schema.task import LossOn, Sft

# For base models that bring no template (https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md).
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BATCH = 1000


@dataclass(slots=True, kw_only=True)  # not frozen: that takes three times as long to make, and there are millions
class TokenRow:
    """A conversation: token ids and which of them carry the loss [T each]; whether it was cut to `max_length`, and which piece this is.

    `index` is the conversation's place among those that were tokenized.
    """

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    truncated: bool
    piece: int = 0
    index: int = 0

    @property
    def supervised(self) -> int:
        """How many tokens carry the loss."""
        return int(np.count_nonzero(self.trained))


def tokenize(
    conversations: Iterable[Example],
    tokenizer: PreTrainedTokenizerBase,
    task: Sft,
    *,
    encoder: Encoder | None = None,
    forms: Forms | None = None,
    pieces: bool = False,
    tick: Callable[[int], None] = lambda done: None,
) -> Iterator[TokenRow]:
    """Render, mask and tokenize in batches; what is longer than `task.max_length` is cut there, or comes in `pieces`.

    `encoder` is the tokenizer at work (see fast.py), `forms` the template's, found before; `tick` gets the conversations done so far.

    Raises TuneError (code 2) when the template refuses a conversation.
    """
    forms, encoder = forms or Forms(Masker(tokenizer)), encoder or Encoder(tokenizer)
    source, done = iter(conversations), 0
    while batch := list(islice(source, BATCH)):
        texts, spans = zip(*(render(example, forms, task.loss_on) for example in batch), strict=True)
        for index, (ids, trained) in enumerate(encoder.encode(list(texts), spans), done):
            cut = not pieces and len(ids) > task.max_length
            for piece, first in enumerate(range(0, len(ids), task.max_length) if pieces else (0,)):
                part = slice(first, first + task.max_length)
                yield TokenRow(ids=ids[part], trained=trained[part], truncated=cut, piece=piece, index=index)
        done += len(batch)
        tick(done)


def render(example: Example, forms: Forms, loss_on: LossOn) -> tuple[str, list[Span]]:
    """(the conversation as the template writes it, the characters of it that are trained).

    Behind a last answer stands a mark to stop at, where the template writes none (`Template.closing`).
    """
    masker, messages, tools = forms.masker, example["messages"], example["tools"]
    flags = [True] * len(messages)
    form = forms.of(messages, tools)  # a conversation that has one says nothing of training and of tools
    found: dict[int, Span] | None = None
    if form:
        text, found = form.fill(messages)
    else:
        flags = [m.get("train", True) for m in messages]
        messages = [{k: v for k, v in m.items() if k != "train"} for m in messages]
        messages, tools = fitted(messages, tools, masker)
        form = forms.of(messages, tools)
        text, found = form.fill(messages) if form else (masker.render(messages, tools=tools), None)
    closing = masker.closing(messages[-1]) if messages[-1]["role"] == "assistant" else ""
    if loss_on is LossOn.all:
        return text + closing, [(0, len(text + closing))]
    found = masker.turns(messages, text, tools=tools) if found is None else found
    if closing and (last := len(messages) - 1) in found:
        found[last] = (found[last][0], len(text + closing))
    added = len(messages) - len(flags)
    turns = {i - added: span for i, span in found.items()} if added else found
    if loss_on is LossOn.last_assistant:
        turns = {i: turns[i] for i in sorted(turns)[-1:]}
    if loss_on is LossOn.completion:
        answers = example.get("answers_from", max(turns, default=0))
        turns = {i: span for i, span in turns.items() if i >= answers}
    return text + closing, [span for i, span in turns.items() if flags[i]]


def fitted(messages: list[Message], tools: list[Any] | None, masker: Masker) -> tuple[list[Message], list[Any] | None]:
    """A conversation as the template can write it: tools, calls and results as plain text where it knows none."""
    speaks_of_tools = bool(tools) or any(m.get("tool_calls") for m in messages)
    if not speaks_of_tools or masker.knows_tools:
        return messages, tools
    return written_out(messages, tools), None


def answer_of(example: Example, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the model should say last: the message's text, or its tool calls as the template writes them."""
    if not example["messages"][-1].get("tool_calls"):
        return str(example["messages"][-1]["content"])
    masker = Masker(tokenizer)
    messages, tools = fitted(example["messages"], example["tools"], masker)
    text = masker.render(messages, tools=tools)
    start, end = masker.turns(messages, text, tools=tools)[len(messages) - 1]
    mark = next((m for m in masker.ends if text[start:end].endswith(m)), "")
    return text[start:end].removesuffix(mark).strip()


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text behind an assistant's last message, without white space: what makes the model stop."""
    return next(iter(Template(tokenizer).ends), "")


def stop_marks(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """What ends an answer, and a tool call where that is another mark (gpt-oss: `<|return|>` and `<|call|>`)."""
    template = Template(tokenizer)
    marks = {template.own_end} if template.own_end else set(template.ends)
    return {mark for mark in marks | {template.call_end} if mark}


def how_turns_end(tokenizer: PreTrainedTokenizerBase) -> str:
    """What is done about a template that writes no end of turn, in words; "" where it writes one."""
    template = Template(tokenizer)
    if template.own_end or not template.ends:
        return ""
    if template.ends == (str(tokenizer.eos_token),):
        return f"the chat template ends no turn: the tokenizer's {tokenizer.eos_token} is put behind a last answer, and trained"
    marks = " or ".join(template.ends)
    return f"the chat template ends a turn by opening the next: {marks} is trained as its end, and put behind a last answer"


def ensure_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """Give the tokenizer its template; returns where it came from: the recipe, the model, or ours where the model has none."""
    if template is not None:
        tokenizer.chat_template = template
        return "recipe"
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML
        return "ChatML (the model has none)"
    return "model"


def prompt_ids(messages: list[Message], tokenizer: PreTrainedTokenizerBase, *, tools: list[Any] | None = None) -> list[int]:
    """Token ids of a conversation up to the assistant's turn: the serving path's input."""
    masker = Masker(tokenizer)
    messages, tools = fitted(messages, tools, masker)
    encoded: Any = tokenizer(masker.render(messages, tools=tools, prompt=True), add_special_tokens=False)
    return list(encoded["input_ids"])
