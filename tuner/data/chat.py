"""Conversations to token rows with loss masks: `tokenize(conversations, tokenizer, task)` -> ids, and which of them are trained.

A mask comes from character positions in the rendered text (see masks.py): a token is trained when it starts inside a trained turn.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.masks import Masker, Span
from tuner.data.turns import Example, Message
from tuner.schema.task import LossOn, Sft

# For base models that bring no template (https://github.com/openai/openai-python/blob/release-v0.28.0/chatml.md).
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BATCH = 1000


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One conversation: token ids and which of them carry the loss [T each], and whether it was cut to `max_length`."""

    ids: NDArray[np.int32]
    trained: NDArray[np.bool_]
    truncated: bool


def tokenize(conversations: Iterable[Example], tokenizer: PreTrainedTokenizerBase, task: Sft) -> Iterator[TokenRow]:
    """Render, mask and tokenize in batches. Raises TuneError (code 2) when the template refuses a conversation."""
    masker = Masker(tokenizer)
    source = iter(conversations)
    while batch := list(islice(source, BATCH)):
        rendered = [render(example, masker, task.loss_on) for example in batch]
        encoded = tokenizer(
            [text for text, _ in rendered], add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False
        )
        for (_, spans), ids, offsets in zip(rendered, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            yield _mask(ids, offsets, spans, task.max_length)


def render(example: Example, masker: Masker, loss_on: LossOn) -> tuple[str, list[Span]]:
    """(the conversation as the template writes it, the characters of it that are trained)."""
    messages = [{k: v for k, v in m.items() if k != "train"} if "train" in m else m for m in example["messages"]]
    text = masker.render(messages, tools=example["tools"])
    if loss_on is LossOn.all:
        return text, [(0, len(text))]
    turns = masker.turns(messages, text, tools=example["tools"])
    if loss_on is LossOn.last_assistant:
        turns = {i: turns[i] for i in sorted(turns)[-1:]}
    if loss_on is LossOn.completion:
        answers = example.get("answers_from", max(turns, default=0))
        turns = {i: span for i, span in turns.items() if i >= answers}
    return text, [span for i, span in turns.items() if example["messages"][i].get("train", True)]


def _mask(ids: list[int], offsets: list[tuple[int, int]], spans: list[Span], max_length: int) -> TokenRow:
    starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(offsets))
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        trained |= (starts >= start) & (starts < end)
    return TokenRow(ids=np.asarray(ids[:max_length], dtype=np.int32), trained=trained[:max_length], truncated=len(ids) > max_length)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the template writes after an assistant's last message, without white space: what makes the model stop."""
    return next(iter(Masker(tokenizer).ends), "")


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
    encoded: Any = tokenizer(Masker(tokenizer).render(messages, tools=tools, prompt=True), add_special_tokens=False)
    return list(encoded["input_ids"])
