"""What a recipe names of this machine: `find_inputs(composed)` -> absolute paths by recipe key (rows, model, template, earlier results)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from tuner.errors import TuneError
from tuner.files import find_files, model_files
from tuner.schema.compose import Composed
from tuner.schema.data import source_key, sources
from tuner.schema.documents import finished_run
from tuner.schema.model import Model, Source
from tuner.schema.recipe import Recipe
from tuner.schema.teacher import KEY, teacher_of
from tuner.task_files import is_file, read_task, rows_of

TASKS, ROWS = "eval.lm_eval.tasks", "eval.lm_eval.rows"  # files of tasks, and of their rows
EVAL_KEYS = ("eval.general", TASKS, ROWS)


def find_inputs(composed: Composed) -> dict[str, list[str]]:
    """Absolute paths of every local file the recipe names, by recipe key. All that are missing are reported together."""
    recipe, reading = composed.recipe, composed.reading
    found: dict[str, list[str]] = {}
    problems = []
    template = recipe.model.chat_template
    forms = {source_key(name, "path"): source.format for name, source in sources(recipe.data).items()}
    named = {source_key(name, "path"): source.path for name, source in sources(recipe.data).items()}
    named |= {"data.eval_path": recipe.data.eval_path}
    named |= {"model.chat_template": template} if template and "{" not in template else {}

    def places(key: str) -> list[Path]:
        """Where a path is looked up: what a file says is meant from there, what is typed from here."""
        folder = reading.folder(key)
        return [folder, Path.cwd()] if folder else [Path.cwd(), reading.recipes["main"].path.parent]

    for key, value in named.items():
        if value is not None:
            try:
                found[key] = find_files(value, places=places(key), form=forms.get(key, recipe.data.format))
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
        found |= eval_files(recipe, places=places)
    except TuneError as error:
        problems += [dataclasses.replace(p, where=reading.where(p.where)) if p.where in EVAL_KEYS else p for p in error.problems]
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


def eval_files(recipe: Recipe, *, places: Callable[[str], list[Path]]) -> dict[str, list[str]]:
    """What `eval` names: general texts, task files of lm-eval and those of their rows; `places`: where a key's paths are looked up.

    Raises TuneError (code 2) for what is not there, at its key, and for a task file that would run code.
    """
    wanted, found = recipe.eval, dict[str, list[str]]()
    if not wanted.enabled:
        return found
    tasks = [name for name in (wanted.lm_eval.tasks if wanted.lm_eval else []) if is_file(name)]
    for key, names in (("eval.general", [wanted.general] if wanted.general else []), (TASKS, tasks)):
        try:
            files = [file for name in names for file in find_files(name, places=places(key))]
        except TuneError as error:
            raise TuneError(problems=[dataclasses.replace(p, where=key) for p in error.problems]) from error
        found |= {key: files} if files else {}
    rows = [path for file in found.get(TASKS, []) for path in rows_of(read_task(Path(file)))]
    return found | ({ROWS: rows} if rows else {})


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
