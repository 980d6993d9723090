"""`tune try` of a run that sees and writes: `ask(plan, "photo.jpg", "what is it?", max_new_tokens=64, as_json=False)`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tuner.context import Run
from tuner.data.images import opened
from tuner.data.seen import smaller
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.model.generation import settings
from tuner.model.seen import answers
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.serve.trained import trained
from tuner.serve.typed import typed
from tuner.tasks import module_of


def _loaded(plan: Plan) -> tuple[Run, Any]:
    """The run and its tuned model. Raises TuneError (code 2) when nothing has been trained yet."""
    run = trained(plan)
    return run, module_of(run.recipe.task).load(run, tuned=run.folder)


def answer(run: Run, model: Any, path: str, question: str, *, system: str | None, max_new_tokens: int) -> str:
    """What the model says of an image file. Raises TuneError (code 2) for what is no image."""
    task: Any = module_of(run.recipe.task)
    seeing = task.seeing_of(run)
    try:
        image = smaller(opened({"image": path}), seeing.task.max_pixels)
    except Misfit as misfit:
        raise TuneError(str(misfit), path, 'name an image file, then the question: `tune try RUN photo.jpg "what is it?"`') from misfit
    asked = [{"role": "user", "content": [{"type": "image"}, *([{"type": "text", "text": question}] if question else [])]}]
    text = seeing.prompt([*([{"role": "system", "content": system}] if system else []), *asked])
    config = settings(seeing.processor.tokenizer, max_new_tokens=max_new_tokens)
    return answers(model, seeing, [(text, [image])], config, batch_size=1)[0]


def _system(plan: Plan, said: str | None) -> str | None:
    return said or read_json(Path(plan.folder) / "data.json").get("system")


def ask(plan: Plan, path: str, question: str, *, system: str | None, max_new_tokens: int, as_json: bool = False) -> None:
    """One image and one question."""
    said = answer(*_loaded(plan), path, question, system=_system(plan, system), max_new_tokens=max_new_tokens)
    if as_json:
        print(json.dumps({"image": path, "prompt": question, "tuned": said}, ensure_ascii=False))  # noqa: T201 for a program
    else:
        out.print(said, markup=False, highlight=False)


def converse(plan: Plan, *, system: str | None, max_new_tokens: int) -> None:
    """Images one after the other, each by its path and a question behind it."""
    run, model = _loaded(plan)
    for line in typed("the path of an image, a space and a question"):
        path, _, question = line.partition(" ")
        said = answer(run, model, path, question, system=_system(plan, system), max_new_tokens=max_new_tokens)
        out.print(said, markup=False, highlight=False)
