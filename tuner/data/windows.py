"""Questions with their texts as token rows: `windows(examples, spans, tokenizer, task)` -> Windows; a long text is several that overlap.

A window's label is the first and the last token of the answer [2]; where it holds none, or not all of it, twice the token that stands for
"not here" ([CLS]), as SQuAD 2.0's models learn it (https://arxiv.org/abs/1810.04805).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.answers import Placed
from tuner.data.labelled import LabelRow
from tuner.data.turns import Misfit
from tuner.schema.passages import Qa

BATCH = 1000


@dataclass(slots=True, kw_only=True)
class Window(LabelRow):
    """A question and a part of its text. `offsets`: of each token where it begins and ends in the text [T, 2]; -1 of what is no part of it.

    `index` is the number of the example, `nowhere` the place of the token that stands for "not here".
    """

    offsets: NDArray[np.int32]
    nowhere: int

    @property
    def answered(self) -> bool:
        """Whether the answer stands in it."""
        return bool(self.label[0] != self.nowhere)


def has_room(question: str, tokenizer: PreTrainedTokenizerBase, task: Qa) -> None:
    """Raises Misfit for a question that leaves its text no room to move on in."""
    count = len(tokenizer(question.strip(), add_special_tokens=False)["input_ids"])
    room = task.max_length - count - tokenizer.num_special_tokens_to_add(pair=True)
    if room <= task.stride:
        what = f"the question has {count} tokens: in a window of {task.max_length} (`task.max_length`) they leave its text {max(0, room)}"
        raise Misfit(f"{what}, and {task.stride} of these (`task.stride`) are shared with the window before")


def windows(
    examples: Sequence[dict[str, Any]],
    places: Sequence[Placed],
    tokenizer: PreTrainedTokenizerBase,
    task: Qa,
    *,
    tick: Callable[[int], None] = lambda _: None,
) -> Iterator[Window]:
    """The windows of all rows, in order. Of several answers the first is learned."""
    for first in range(0, len(examples), BATCH):
        batch = examples[first : first + BATCH]
        coded = tokenizer(
            [e["question"].strip() for e in batch],
            [e["context"] for e in batch],
            truncation="only_second",
            max_length=task.max_length,
            stride=task.stride,
            return_overflowing_tokens=True,
            return_token_type_ids=True,
        )
        for number, (encoding, sample) in enumerate(zip(coded.encodings, coded["overflow_to_sample_mapping"], strict=True)):
            ids = np.asarray(encoding.ids, np.int32)
            inside = np.asarray([part == 1 for part in encoding.sequence_ids])
            offsets = np.where(inside[:, None], np.asarray(encoding.offsets, np.int32), np.int32(-1))
            nowhere = int((ids == tokenizer.cls_token_id).argmax()) if tokenizer.cls_token_id is not None else 0
            spans = places[first + sample].spans
            yield Window(
                ids=ids,
                types=np.asarray(coded["token_type_ids"][number], np.int8),
                trained=np.ones(len(ids), np.bool_),
                label=np.asarray((_ends(offsets, spans[0]) if spans else None) or (nowhere, nowhere), np.int32),
                truncated=False,
                index=first + sample,
                offsets=offsets,
                nowhere=nowhere,
            )
        tick(min(first + BATCH, len(examples)))


def _ends(offsets: NDArray[np.int32], span: tuple[int, int]) -> tuple[int, int] | None:
    """The first and the last token that hold something of an answer; None where not all of it is here. A token may begin with the space
    before its word, and several may make one character."""
    begin, end = span
    there = np.flatnonzero((offsets[:, 1] > offsets[:, 0]) & (offsets[:, 0] >= 0))
    if not len(there) or offsets[there[0], 0] > begin or offsets[there[-1], 1] < end:
        return None
    first = there[np.argmax(offsets[there, 1] > begin)]
    last = there[np.flatnonzero(offsets[there, 0] < end)[-1]]
    return int(first), int(last)
