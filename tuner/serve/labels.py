"""`tune try` of a run whose model gives labels: `ask(plan, "a lovely film", as_json=False)`, through Transformers' pipeline."""

from __future__ import annotations

import json
from typing import Any, cast

from transformers import pipeline

from tuner.errors import TuneError
from tuner.model.adapt import attach
from tuner.model.endings import ending_of
from tuner.model.load import load_base, load_folder, load_tokenizer, pick_device
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.schema.adapter import Full
from tuner.schema.model import Model, Source
from tuner.serve.trained import trained
from tuner.serve.typed import typed

FILLED = 5  # words for each mask
MOST_SHOWN = 10  # labels of one text


def tuned_of(plan: Plan) -> tuple[Any, Any]:
    """(the tuned model, its tokenizer). Raises TuneError (code 2) when nothing has been trained yet."""
    run = trained(plan)
    recipe, folder, device = run.recipe, run.folder, run.device
    words = recipe.task.head == "token"
    tokenizer, _ = load_tokenizer(Model(id=plan.folder, source=Source.local), progress=out.print, chats=False, words=words)
    end = ending_of(recipe.task, read_json(folder / "data.json").get("labels", []), tokenizer.pad_token_id)
    if isinstance(recipe.adapter, Full):
        model: Any = load_folder(folder, recipe.model, device, ending=end)
    else:
        model = attach(load_base(recipe.model, device, progress=out.print, ending=end), folder).get_base_model()  # with its layers in it
    return model, tokenizer


def pipeline_of(plan: Plan) -> Any:
    """The tuned model as Transformers' pipeline. Raises TuneError (code 2) when nothing has been trained yet."""
    (model, tokenizer), recipe, make = tuned_of(plan), plan.load_recipe(), cast(Any, pipeline)
    return make(recipe.task.pipeline_tag, model=model, tokenizer=tokenizer, device=pick_device(recipe.hardware))


def answer(plan: Plan, model: Any, text: str) -> list[dict[str, Any]]:
    """Labels of a text, the likeliest first, each with its probability; or the words that are tagged."""
    if plan.load_recipe().task.head == "token":
        found = model(text, aggregation_strategy="first")
        return [{"text": text[e["start"] : e["end"]], "label": e["entity_group"], "score": round(float(e["score"]), 4)} for e in found]
    if plan.load_recipe().task.head == "masked":
        mask = model.tokenizer.mask_token
        if mask not in (text := text.replace("[MASK]", mask)):
            raise TuneError(f"nothing is to be filled in: {text!r:.80}", "PROMPT", "write [MASK] where a word is missing")
        found = model(text, top_k=FILLED)
        rows = [one for place in (found if isinstance(found[0], list) else [found]) for one in place]  # several masks: a list each
        return [{"label": e["token_str"], "score": round(float(e["score"]), 4)} for e in rows]
    options: dict[str, Any] = {"top_k": None, "truncation": True}
    if model.model.config.problem_type == "regression":
        options["function_to_apply"] = "none"
    return [{"label": e["label"], "score": round(float(e["score"]), 4)} for e in model(text, **options)]


def ask(plan: Plan, text: str, *, as_json: bool = False) -> None:
    """One text, its labels."""
    found = answer(plan, pipeline_of(plan), text)
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Texts one after the other."""
    model = pipeline_of(plan)
    for text in typed():
        show(answer(plan, model, text))


def show(found: list[dict[str, Any]]) -> None:
    """The likeliest labels, a line each."""
    for entry in found[:MOST_SHOWN]:
        out.print(
            f"{entry['score']:6.3f}  {entry['label']}" + (f"  {entry['text']}" if "text" in entry else ""), markup=False, highlight=False
        )
    if len(found) > MOST_SHOWN:
        out.print(f"… and {len(found) - MOST_SHOWN} more", highlight=False)
    if not found:
        out.print("no word is tagged")
