"""`tune try` of a run that paints: `ask(plan, "a red circle")` writes what base and tuned make of it, and prints where."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tuner.eval.samples import paint
from tuner.model.diffusion import painting_with
from tuner.model.load import DTYPES
from tuner.plan import Plan
from tuner.render import out
from tuner.serve.trained import both, trained
from tuner.serve.typed import typed
from tuner.tasks import module_of
from tuner.train.painting import parts, side, task_of

MOST_LETTERS = 60  # of a prompt in a file's name


class Painters:
    """Base and tuned of a run, in one pipeline."""

    def __init__(self, plan: Plan) -> None:
        """Raises TuneError (code 2) when nothing has been trained yet."""
        self.run = trained(plan)
        self.models = both(self.run, module_of(self.run.recipe.task))
        self.pipeline = parts(self.run).frozen(self.run.device, DTYPES[self.run.recipe.model.dtype])

    def paint(self, prompt: str) -> dict[str, str]:
        """The files of both, by name: `tried/a-red-circle-base.png` in the run's folder."""
        task, known, found = task_of(self.run), parts(self.run), dict[str, str]()
        name = re.sub(r"\W+", "-", prompt.lower()).strip("-")[:MOST_LETTERS] or "image"
        folder = self.run.folder / "tried"
        folder.mkdir(exist_ok=True)
        for who, model in self.models.items():
            with painting_with(self.pipeline, known, model) as ready:
                options: dict[str, Any] = {"steps": task.sample_steps, "guidance": task.guidance_scale}
                (image,) = paint(ready, [prompt], side=side(self.run, known), **options)
            path: Path = folder / f"{name}-{who}.png"
            image.save(path)
            found[who] = str(path)
        return found


def ask(plan: Plan, prompt: str, *, as_json: bool = False) -> None:
    """One prompt, an image of each."""
    found = Painters(plan).paint(prompt)
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Prompts one after the other."""
    painters = Painters(plan)
    for prompt in typed("what is to be painted"):
        show(painters.paint(prompt))


def show(found: dict[str, str]) -> None:
    """Where the images are."""
    for who, path in found.items():
        out.print(f"{who:<6} {path}", markup=False, highlight=False, soft_wrap=True)
