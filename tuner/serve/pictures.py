"""`tune try` of a run whose model labels images: `ask(plan, "photo.jpg", as_json=False)`, through Transformers' pipeline."""

from __future__ import annotations

import json
from typing import Any

from transformers import pipeline

from tuner.data.images import opened
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.model.adapt import attach
from tuner.model.endings import ending_of
from tuner.model.load import load_base, load_folder
from tuner.model.processors import load_image_processor
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.schema.adapter import Full
from tuner.schema.model import Model, Source
from tuner.serve.labels import show
from tuner.serve.trained import trained
from tuner.serve.typed import typed


def pipeline_of(plan: Plan) -> Any:
    """The tuned model as Transformers' pipeline. Raises TuneError (code 2) when nothing has been trained yet."""
    run = trained(plan)
    recipe, folder, device = run.recipe, run.folder, run.device
    end = ending_of(recipe.task, read_json(folder / "data.json")["labels"], None)
    if isinstance(recipe.adapter, Full):
        model: Any = load_folder(folder, recipe.model, device, ending=end)
    else:
        model = attach(load_base(recipe.model, device, progress=out.print, ending=end), folder).get_base_model()  # with its layers in it
    processor = load_image_processor(Model(id=plan.folder, source=Source.local), progress=out.print)
    make: Any = pipeline
    return make(recipe.task.pipeline_tag, model=model, image_processor=processor, device=device)


def answer(model: Any, path: str) -> list[dict[str, Any]]:
    """Labels of an image file, the likeliest first, each with its probability. Raises TuneError (code 2) for what is no image."""
    try:
        image = opened({"image": path})
    except Misfit as misfit:
        raise TuneError(str(misfit), path, "give the path of an image file") from misfit
    function = {"regression": "none", "multi_label_classification": "sigmoid"}.get(model.model.config.problem_type, "softmax")
    found = model(image, top_k=len(model.model.config.id2label), function_to_apply=function)
    return [{"label": e["label"], "score": round(float(e["score"]), 4)} for e in found]


def ask(plan: Plan, path: str, *, as_json: bool = False) -> None:
    """One image, its labels."""
    found = answer(pipeline_of(plan), path)
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Images one after the other."""
    model = pipeline_of(plan)
    for path in typed("the path of an image"):
        show(answer(model, path))
