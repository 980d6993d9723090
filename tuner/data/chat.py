"""Conversations to token rows with loss masks: `tokenize(conversations, tokenizer, task)` -> ids, and which of them are trained.

A mask comes from character positions in the rendered text: the assistant's turn is what rendering up to and including its message adds
to rendering up to its generation prompt. The end-of-turn token belongs to the turn (a model that never sees it trained never stops);
white space that the template puts after it does not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.columns import Messages
from tuner.errors import TuneError
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


def render(messages: Messages, tokenizer: PreTrainedTokenizerBase, *, prompt: bool = False) -> str:
    """The conversation as the model's template writes it; `prompt` appends what opens the assistant's turn.

    Raises TuneError (code 2) with the template's own words when it refuses the conversation (no system role, say).
    """
    try:
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt))
    except (TemplateError, TypeError) as error:
        roles = [m["role"] for m in messages]
        raise TuneError(
            f"the chat template refuses a conversation of {roles}: {error}", "data", "mend the roles, or set `model.chat_template`"
        ) from error


def spans(messages: Messages, text: str, tokenizer: PreTrainedTokenizerBase, loss_on: LossOn) -> Iterator[tuple[int, int]]:
    """Character ranges of `text` (the rendered conversation) that are trained."""
    if loss_on is LossOn.all:
        yield 0, len(text)
        return
    turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
    for index in turns[-1:] if loss_on is LossOn.last_assistant else turns:
        end = render(messages[: index + 1], tokenizer)
        start = render(messages[:index], tokenizer, prompt=True) if index else _opening(messages[0], end, tokenizer)
        if not (text.startswith(end) and end.startswith(start)):
            fix = "use `task.loss_on=last_assistant` or `all`, or a `model.chat_template` that appends turns"
            raise TuneError(
                "the chat template rewrites earlier turns, so the assistant's text cannot be told apart", "model.chat_template", fix
            )
        yield len(start), len(end.rstrip())


def _opening(first: dict[str, str], end: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes before a conversation's first text when that is the assistant's; `end` is that turn rendered."""
    prompt = render([first], tokenizer, prompt=True).removeprefix(end)
    return end[: end.index(prompt) + len(prompt)] if prompt in end else ""


def tokenize(conversations: list[Messages], tokenizer: PreTrainedTokenizerBase, task: Sft) -> Iterator[TokenRow]:
    """Render and tokenize in batches; a token is trained when it starts inside a trained span."""
    for first in range(0, len(conversations), BATCH):
        batch = conversations[first : first + BATCH]
        texts = [render(messages, tokenizer) for messages in batch]
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
        for row, messages in enumerate(batch):
            yield _mask(
                encoded["input_ids"][row], encoded["offset_mapping"][row], spans(messages, texts[row], tokenizer, task.loss_on), task
            )


def _mask(ids: list[int], offsets: list[tuple[int, int]], ranges: Iterator[tuple[int, int]], task: Sft) -> TokenRow:
    starts = np.fromiter((start for start, _ in offsets), dtype=np.int64, count=len(offsets))
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in ranges:
        trained |= (starts >= start) & (starts < end)
    cut = task.max_length
    return TokenRow(ids=np.asarray(ids[:cut], dtype=np.int32), trained=trained[:cut], truncated=len(ids) > cut)


def end_of_turn(tokenizer: PreTrainedTokenizerBase) -> str:
    """The text that the template writes after an assistant's message, without white space: what makes the model stop."""
    marker = "The answer."
    messages = [{"role": "user", "content": "A question?"}, {"role": "assistant", "content": marker}]
    return render(messages, tokenizer).rpartition(marker)[2].strip()


def ensure_template(tokenizer: PreTrainedTokenizerBase, template: str | None) -> str:
    """Give the tokenizer its template; returns where it came from: the recipe, the model, or ours where the model has none."""
    if template is not None:
        tokenizer.chat_template = template
        return "recipe"
    if tokenizer.chat_template is None:
        tokenizer.chat_template = CHATML
        return "ChatML (the model has none)"
    return "model"


def prompt_ids(messages: Messages, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a conversation up to the assistant's turn: the serving path's input."""
    encoded: Any = tokenizer(render(messages, tokenizer, prompt=True), add_special_tokens=False)
    return list(encoded["input_ids"])
