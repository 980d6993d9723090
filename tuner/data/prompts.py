"""Rows as prompts whose answers are yet to be sampled: `read(run, rows, tokenizer, referenced=True)` -> what was found, and Asked.

A prompt is a conversation up to the answer: its messages and tools, its tokens, and what the right answer is, where the row has one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data import labelled
from tuner.data.asked import Asked
from tuner.data.chat import TokenRow, prompt_ids
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.turns import Misfit
from tuner.schema.data import RowShape

ANSWERS = ("completion", "response", "output", "answer")
FIX = "mend or remove this row, or reward what needs no reference (`tune explain task.rewards`)"


def read(
    run: Run, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, referenced: bool, tick: Callable[[int], None] = lambda done: None
) -> tuple[Found, list[Asked]]:
    """Rows as prompts: of a conversation all before its last answer, which is the reference. `referenced`: each must have one.

    Raises TuneError (code 2) with the first row that has none, or nothing to answer.
    """
    first = rows[0] if len(rows) else {}
    shape = RowShape.prompt if "prompt" in first and not any(name in first for name in ANSWERS) else RowShape.auto
    found, done = labelled.read(run, rows, ("conversation",), shape=shape), 0

    def asked(example: Example) -> Asked:
        nonlocal done
        done += 1
        tick(done)
        *before, last = example["messages"]
        answered = last["role"] == "assistant"
        prompt = before if answered else example["messages"]
        reference = str(last.get("content") or "").strip() if answered else ""
        if not any(m["role"] in ("user", "tool") for m in prompt):
            raise Misfit("there is nothing to answer")
        if referenced and not reference:
            raise Misfit("it has no reference (an answer that the rewards compare with)")
        return Asked(prompt=prompt, tools=example["tools"], reference=reference, ids=prompt_ids(prompt, tokenizer, tools=example["tools"]))

    return labelled.numbered(found, asked, run, fix=FIX)


def token_row(asked: Asked) -> TokenRow:
    """Its tokens, none of which is trained."""
    return TokenRow(ids=np.asarray(asked.ids, np.int32), trained=np.zeros(len(asked.ids), np.bool_), truncated=False)
