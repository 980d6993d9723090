"""`tune try` of a run whose model makes vectors: `ask(plan, "a lovely film")` shows what is nearest among held-out texts."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from tuner.errors import TuneError
from tuner.model.embeddings import library
from tuner.model.sources import fetch
from tuner.plan import Plan
from tuner.render import out
from tuner.results import json_lines, read_results
from tuner.serve.trained import trained
from tuner.serve.typed import typed

NEAREST = 5


class Finder:
    """A run's tuned model over the texts that were held out; and its base."""

    def __init__(self, plan: Plan) -> None:
        run = trained(plan)
        rows = read_results(run.folder).eval_rows
        if rows is None:
            raise TuneError(f"{plan.name} has measured no held-out rows, among which to look", plan.folder, "run it with eval=default")
        found = [[row["prompt"][0]["content"], row["reference"]] for row in json_lines(rows)]
        scored = all(_is_number(reference) for _, reference in found)
        self.texts = list(dict.fromkeys(t for prompt, reference in found for t in (prompt.split(" · ") if scored else [reference])))
        recipe = run.recipe
        cls = library().SentenceTransformer
        base = fetch(recipe.model, progress=out.print)
        self.models = {"base": cls(str(base or recipe.model.id), revision=recipe.model.revision), "tuned": cls(plan.folder)}
        self.tables = {name: model.encode(self.texts, normalize_embeddings=True) for name, model in self.models.items()}

    def nearest(self, text: str) -> dict[str, list[dict[str, Any]]]:
        """Of each model the texts that are nearest, with their likeness (cosine)."""
        found = {}
        for name, model in self.models.items():
            near = self.tables[name] @ model.encode([text], normalize_embeddings=True)[0]
            order = [int(i) for i in (-near).argsort()[:NEAREST]]
            found[name] = [{"text": self.texts[i], "likeness": round(float(near[i]), 4)} for i in order]
        return found


def _is_number(text: str) -> bool:
    with contextlib.suppress(ValueError):
        float(text)
        return True
    return False


def ask(plan: Plan, text: str, *, as_json: bool = False) -> None:
    """One text, and what is nearest."""
    found = Finder(plan).nearest(text)
    print(json.dumps(found, ensure_ascii=False)) if as_json else _show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Texts one after the other."""
    finder = Finder(plan)
    for text in typed():
        _show(finder.nearest(text))


def _show(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, entries in found.items():
        out.print(f"[bold]{name}[/]")
        for entry in entries:
            out.print(f"{entry['likeness']:6.3f}  {entry['text']}", markup=False, highlight=False)
