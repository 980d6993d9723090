"""What a recipe names of this machine: `find_inputs(composed)` -> absolute paths by recipe key (rows, model, template, earlier results)."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from tuner.errors import TuneError
from tuner.files import find_files, model_files
from tuner.schema.compose import Composed
from tuner.schema.data import Format, source_key, sources
from tuner.schema.documents import finished_run
from tuner.schema.model import Model, Source
from tuner.schema.recipe import Recipe
from tuner.schema.teacher import KEY, teacher_of


def find_inputs(composed: Composed) -> dict[str, list[str]]:
    """Absolute paths of every local file the recipe names, by recipe key. All that are missing are reported together."""
    recipe, reading = composed.recipe, composed.reading
    found: dict[str, list[str]] = {}
    problems = []
    template = recipe.model.chat_template
    forms = {source_key(name, "path"): source.format for name, source in sources(recipe.data).items()}
    forms["eval.general"] = Format.auto
    named = {source_key(name, "path"): source.path for name, source in sources(recipe.data).items()}
    named |= {"data.eval_path": recipe.data.eval_path, "eval.general": recipe.eval.general if recipe.eval.enabled else None}
    named |= {"model.chat_template": template} if template and "{" not in template else {}
    for key, value in named.items():
        if value is not None:
            folder = reading.folder(key)  # what a file says is meant from there, what is typed from here
            places = [folder, Path.cwd()] if folder else [Path.cwd(), reading.recipes["main"].path.parent]
            try:
                found[key] = find_files(value, places=places, form=forms.get(key, recipe.data.format))
            except TuneError as error:
                problems += [dataclasses.replace(p, where=reading.where(key)) for p in error.problems]
    for name, source in sources(recipe.data).items():
        url = source.url or ""
        database = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and database.is_file():
            found[source_key(name, "url")] = [str(database.absolute())]
    results = {"model.run": recipe.model.run, "adapter.continue_from": getattr(recipe.adapter, "continue_from", None)}
    for key, value in results.items():
        if value is not None:
            try:
                found[key] = _result(value, recipe.output_dir, reading.where(key), reading.folder(key), adapter=key.startswith("adapter"))
            except TuneError as error:
                problems += error.problems
    try:
        found |= _teacher(recipe)
    except TuneError as error:
        problems += [dataclasses.replace(p, where=reading.where(KEY)) for p in error.problems]
    if is_local(recipe):
        found["model.id"] = [str(p) for p in model_files(Path(recipe.model.id).expanduser().absolute())]
    if problems:
        raise TuneError(problems=problems)
    return found


def _result(named: str, output_dir: str, where: str, beside: Path | None, *, adapter: bool) -> list[str]:
    """The files of a saved result: of the run that is named, or, of an adapter, of a folder. Raises TuneError (code 2)."""
    folders = [Path(named).expanduser()] if beside is None else [beside / Path(named).expanduser(), Path(named).expanduser()]
    folder = next((f for f in folders if adapter and f.is_dir()), None) or finished_run(named, output_dir=output_dir, where=where)
    files = sorted(p for p in folder.iterdir() if p.name == "adapter_config.json" or p.suffix == ".safetensors")
    if adapter and not any(p.name == "adapter_config.json" for p in files):
        fix = "`model=run:NAME` starts from a result that is no adapter" if (folder / "plan.json").is_file() else "name its folder"
        raise TuneError(f"there is no adapter in {folder}", where, fix)
    if not any(p.suffix == ".safetensors" for p in files):
        raise TuneError(f"there are no weights in {folder}", where, "its result was deleted: run it again")
    return [str(p.absolute()) for p in files]


def _teacher(recipe: Recipe) -> dict[str, list[str]]:
    """The files of a teacher that is of this machine. Raises TuneError (code 2) for one that is not there."""
    teacher = teacher_of(recipe)
    if teacher is None:
        return {}
    if teacher.run is not None:
        return {KEY: _result(teacher.run, recipe.output_dir, KEY, None, adapter=False)}
    folder = Path(teacher.id).expanduser()
    if not folder.is_dir() and (teacher.id.startswith((".", "/", "~")) or teacher.id.count("/") > 1):
        raise TuneError(f"no such folder: {teacher.id}", KEY, "check the path; a Hub id is `owner/name`")
    return {KEY: [str(p) for p in model_files(folder.absolute())]} if folder.is_dir() else {}


def is_local(recipe: Recipe) -> bool:
    """Whether the model is a folder on this machine."""
    folder = Path(recipe.model.id).expanduser()
    return recipe.model.source is Source.local or (recipe.model.source is Source.auto and folder.is_dir())


def is_hub(model: Model) -> bool:
    """Whether a model is a repository on the Hub."""
    folder = Path(model.id).expanduser()
    return model.source is Source.hub or (model.source is Source.auto and not folder.is_dir())
