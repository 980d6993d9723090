"""What a training costs elsewhere: the loss on texts of other things (`eval.general`), base against tuned, as `general_loss`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow
from tuner.data.load import read_rows
from tuner.errors import TuneError
from tuner.eval.compare import compare
from tuner.eval.loss import Tick, row_losses
from tuner.eval.scores import Scored, mean_loss
from tuner.schema.data import Data

KEY = "eval.general"
LONGEST = 512  # tokens of a text that are read


def texts(files: list[str]) -> list[str]:
    """The texts of the files. Raises TuneError (code 2) with the first row that has none."""
    rows = read_rows(files, Data())
    for index, row in enumerate(rows):
        if not isinstance(row.get("text"), str) or not row["text"].strip():
            fix = 'a row is `{"text": "…"}`, or a line of a .txt file'
            raise TuneError("there is no `text` to measure what is forgotten on", rows.place(index), fix)
    return [row["text"] for row in rows]


def measured(model: Any, tokenizer: PreTrainedTokenizerBase, found: list[str], *, tick: Tick) -> list[Scored]:
    """The loss of each text, of every token behind its first, by a model that writes."""
    rows = []
    for text in found:
        ids = np.asarray(tokenizer(text, truncation=True, max_length=LONGEST)["input_ids"], np.int32)
        rows.append(TokenRow(ids=ids, trained=np.ones(len(ids), bool), truncated=False))
    losses = row_losses(model, rows, tick=tick)
    return [Scored(prompt=[], reference=text, loss_sum=loss, tokens=count) for text, (loss, count) in zip(found, losses, strict=True)]


def compared(base: list[Scored], tuned: list[Scored], *, samples: int, seed: int) -> dict[str, dict[str, Any]]:
    """What joins metrics.json: `{"base": {"general_loss": 3.1}, "tuned": …, "intervals": …, "verdicts": …}`."""
    found = compare(base, tuned, samples=samples, seed=seed, formulas={"general_loss": mean_loss})
    return {part: found[part] for part in ("base", "tuned", "intervals", "verdicts")}
