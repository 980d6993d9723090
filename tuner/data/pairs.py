"""Two answers to one prompt as token rows: `coded(examples, tokenizer, max_length)` -> (better, worse), the answers alone trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow, tokenize
from tuner.data.shapes import Example
from tuner.schema.task import LossOn, Sft


def conversation(example: Example, answer: str) -> Example:
    """The prompt with one of its answers, of which alone the loss is."""
    prompt: list[dict[str, Any]] = example["prompt"]
    return {"messages": [*prompt, *example[answer]], "tools": example["tools"], "answers_from": len(prompt)}


def coded(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, *, tick: Callable[[int], None] = lambda done: None
) -> list[tuple[TokenRow, TokenRow]]:
    """Of each example both conversations, cut to `max_length` tokens."""
    talks = [conversation(example, answer) for example in examples for answer in ("chosen", "rejected")]
    task = Sft(loss_on=LossOn.completion, max_length=max_length)
    rows = list(tokenize(talks, tokenizer, task, tick=lambda done: tick(done // 2)))
    return list(zip(rows[::2], rows[1::2], strict=True))


def with_mismatched(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, *, tick: Callable[[int], None] = lambda done: None
) -> list[tuple[TokenRow, TokenRow]]:
    """Of each answer its conversation, and the next row's answer in its place (the last row's: the first's)."""
    others = [*examples[1:], *examples[:1]]
    both = [e | {"chosen": e["completion"], "rejected": o["completion"]} for e, o in zip(examples, others, strict=True)]
    return coded(both, tokenizer, max_length, tick=tick)


def teaches(pair: tuple[TokenRow, TokenRow]) -> bool:
    """Whether something of both answers is within the length, and they are not the same."""
    better, worse = pair
    return bool(better.trained[1:].any() and worse.trained[1:].any()) and better.ids.tobytes() != worse.ids.tobytes()


def weighed(example: Example, worth: Mapping[str, float]) -> list[dict[str, Any]]:
    """Answers of a row with what a model gives each, for reports: `weighed(row, {"chosen": −12.5, "rejected": −9.0})`."""
    return [{"name": name, "text": text_of(example, name), "worth": round(value, 4)} for name, value in worth.items()]


def text_of(example: Example, answer: str) -> str:
    """An answer as text, for reports."""
    return "\n".join(str(message.get("content") or "") for message in example[answer])
