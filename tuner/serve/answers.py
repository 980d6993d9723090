"""`tune try` of a run whose model finds answers: `ask(plan, "Who wrote it?", context="Ada wrote it.")` shows the likeliest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.data.answers import NONE, Placed
from tuner.data.turns import Misfit
from tuner.data.windows import has_room, windows
from tuner.errors import TuneError
from tuner.eval.labels import predict
from tuner.eval.spans import likely
from tuner.model.objectives import of_spans
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.schema.passages import Qa
from tuner.serve.labels import tuned_of
from tuner.serve.typed import given, typed

SETTINGS = ("context",)
SHOWN = 3


class Reader:
    """A run's tuned model, which answers questions about texts."""

    def __init__(self, plan: Plan) -> None:
        self.model, self.tokenizer = tuned_of(plan)
        task = plan.load_recipe().task
        assert isinstance(task, Qa)
        self.task, self.nothing = task, bool(read_json(Path(plan.folder) / "data.json").get("some_without"))

    def answers(self, question: str, context: str) -> list[dict[str, Any]]:
        """The likeliest answers, each with its probability and where it begins. Raises TuneError for a question that is too long."""
        try:
            has_room(question, self.tokenizer, self.task)
        except Misfit as misfit:
            raise TuneError(str(misfit), "PROMPT", "ask in fewer words") from misfit
        coded = list(windows([{"question": question, "context": context}], [Placed(spans=[])], self.tokenizer, self.task))
        outputs = [logits for logits, _, _ in predict(self.model, coded, of_spans(self.tokenizer))]
        found = likely(coded, outputs, context, self.task.max_answer_length, nothing=self.nothing)
        return [{"answer": one.text, "score": round(one.probability, 4), "start": one.begin, "end": one.end} for one in found[:SHOWN]]


def ask(plan: Plan, question: str, *, as_json: bool = False, context: str | None = None) -> None:
    """One question about a text."""
    text = given(context, "context", "the text that holds the answer")
    found = Reader(plan).answers(question, text)
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan, *, context: str | None = None) -> None:
    """Questions one after the other: about a text that is given, or typed first."""
    reader, text = Reader(plan), given(context, "context", "") if context else next(typed("the text that holds the answers"), "")
    for question in typed("a question") if text else ():
        show(reader.answers(question, text))


def show(found: list[dict[str, Any]]) -> None:
    """The likeliest answers, a line each."""
    for entry in found:
        out.print(f"{entry['score']:6.3f}  {entry['answer'] or NONE}", markup=False, highlight=False)
