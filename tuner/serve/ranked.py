"""`tune try` of a run whose model ranks passages: `ask(plan, "warm gloves", passages="mittens|a kettle")` puts them into order."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tuner.data.labelled import Found, encoded
from tuner.errors import TuneError
from tuner.eval.labels import predict
from tuner.model.ranking import of_pairs
from tuner.plan import Plan
from tuner.render import out
from tuner.serve.labels import tuned_of
from tuner.serve.typed import given, typed

SETTINGS = ("passages",)
SHOWN = 20


class Ranker:
    """A run's tuned model, which says how well passages fit."""

    def __init__(self, plan: Plan) -> None:
        self.model, self.tokenizer = tuned_of(plan)
        self.max_length = plan.load_recipe().task.max_length

    def ranked(self, query: str, passages: list[str]) -> list[dict[str, Any]]:
        """Each passage with how well it fits, 0 to 1, the best first."""
        found = Found(examples=[{"text": query, "text_pair": text} for text in passages], places=[], misfits=[], layouts=[])
        labels = [np.zeros(1, np.float32)] * len(passages)
        rows = list(encoded(found, labels, self.tokenizer, self.max_length))
        logits = [float(logits[0]) for logits, _, _ in predict(self.model, rows, of_pairs(self.tokenizer))]
        order = sorted(range(len(passages)), key=lambda i: -logits[i])
        return [{"passage": passages[i], "score": round(1 / (1 + float(np.exp(-logits[i]))), 4)} for i in order]


def _listed(passages: str | None) -> list[str]:
    """The passages of a file or of stdin, a line each; in a word of the command line `|` stands between them."""
    text = given(passages, "passages", "what is to be ranked, a line each")
    mark = "|" if passages is not None and not passages.startswith("@") and "\n" not in passages else "\n"
    return [line.strip() for line in text.split(mark) if line.strip()]


def ask(plan: Plan, query: str, *, as_json: bool = False, passages: str | None = None) -> None:
    """One query, and its passages in order."""
    found = Ranker(plan).ranked(query, _listed(passages))
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan, *, passages: str | None = None) -> None:
    """Queries one after the other, over passages that are given, or typed first."""
    ranker, texts = Ranker(plan), _listed(passages) if passages else list(typed("passages"))
    if not texts:
        raise TuneError("there are no passages to rank", "passages", "type some, or give `passages=@FILE`")
    for query in typed("a query"):
        show(ranker.ranked(query, texts))


def show(found: list[dict[str, Any]]) -> None:
    """The passages that fit best, a line each."""
    for entry in found[:SHOWN]:
        out.print(f"{entry['score']:6.3f}  {entry['passage']}", markup=False, highlight=False)
    if len(found) > SHOWN:
        out.print(f"… and {len(found) - SHOWN} more", highlight=False)
