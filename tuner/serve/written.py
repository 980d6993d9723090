"""`tune try` of a run whose model writes a text from a text: `ask(plan, "the house")` -> what base and tuned write."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from tuner.model.adapt import attach
from tuner.model.endings import Ending
from tuner.model.load import load_base, load_folder, load_tokenizer
from tuner.model.written import targets
from tuner.plan import Plan
from tuner.render import out
from tuner.schema.adapter import Full
from tuner.schema.model import Model, Source
from tuner.schema.seq2seq import Seq2Seq
from tuner.serve.trained import trained
from tuner.serve.typed import typed

ENDING = Ending(head="seq2seq")


class Writer:
    """Base and tuned of a run; an adapter shares the base's weights. Raises TuneError (code 2) when nothing has been trained yet."""

    def __init__(self, plan: Plan) -> None:
        run = trained(plan)
        recipe, folder = run.recipe, run.folder
        assert isinstance(recipe.task, Seq2Seq)
        self.task, device = recipe.task, run.device
        self.tokenizer, _ = load_tokenizer(Model(id=plan.folder, source=Source.local), progress=out.print, chats=False)
        self.base: Any = load_base(recipe.model, device, progress=out.print, ending=ENDING)
        self.full = isinstance(recipe.adapter, Full)
        self.tuned: Any = load_folder(folder, recipe.model, device, ending=ENDING) if self.full else attach(self.base, folder)

    def answers(self, text: str) -> dict[str, str]:
        """What both write of a text, greedily."""
        ids = self.tokenizer(self.task.prefix + text, truncation=True, max_length=self.task.max_length)["input_ids"]
        options: dict[str, Any] = {"max_new_tokens": self.task.max_target_length, "batch_size": 1}
        base = self.base if self.full else self.tuned
        with contextlib.nullcontext() if self.full else self.tuned.disable_adapter():
            before = targets(base, self.tokenizer, [ids], **options)
        return {"base": before[0], "tuned": targets(self.tuned, self.tokenizer, [ids], **options)[0]}


def ask(plan: Plan, text: str, *, as_json: bool = False) -> None:
    """One text, and what both write."""
    found = Writer(plan).answers(text)
    print(json.dumps(found, ensure_ascii=False)) if as_json else _show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Texts one after the other."""
    writer = Writer(plan)
    for text in typed():
        _show(writer.answers(text))


def _show(found: dict[str, str]) -> None:
    for name, text in found.items():
        out.print(f"[bold]{name:<6}[/] ", end="")
        out.print(text, markup=False, highlight=False)
