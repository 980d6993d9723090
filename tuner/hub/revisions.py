"""Which commits Hub revisions stand for: `resolve(recipe)` asks the Hub (`refresh=true`), `commits(recipe)` looks into the local cache."""

from __future__ import annotations

import re
from pathlib import Path

from huggingface_hub import HfApi, constants
from huggingface_hub.file_download import repo_folder_name

from tuner.hub.client import hub_errors
from tuner.inputs import is_hub
from tuner.plan import model_is_on_hub
from tuner.schema.data import RowSource, source_key
from tuner.schema.distil import Distil
from tuner.schema.model import Model
from tuner.schema.recipe import Recipe
from tuner.schema.teacher import KEY, teacher_of

MAIN = "main"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(recipe: Recipe) -> None:
    """Replace `model.revision` and `data.revision` by the commits they stand for now. Raises TuneError (code 4) when the Hub cannot say."""
    api = HfApi()
    if model_is_on_hub(recipe):
        with hub_errors(f"ask which commit {recipe.model.id} is at", where="model.id"):
            recipe.model.revision = api.model_info(recipe.model.id, revision=recipe.model.revision).sha
    teacher, task = _teacher(recipe), recipe.task
    if teacher and isinstance(task, Distil):
        with hub_errors(f"ask which commit {teacher.id} is at", where=KEY):
            task.teacher_revision = api.model_info(teacher.id, revision=teacher.revision).sha
    for name, source in _datasets(recipe):
        with hub_errors(f"ask which commit {source.id} is at", where=source_key(name, "id")):
            source.revision = api.dataset_info(str(source.id), revision=source.revision).sha


def commits(recipe: Recipe) -> dict[str, str]:
    """The commits that the local cache holds for the recipe's revisions: `{"model": "12fd25f…"}`; empty where nothing came from the Hub."""
    found = {}
    if model_is_on_hub(recipe):
        found["model"] = _cached("model", recipe.model.id, recipe.model.revision)
    if teacher := _teacher(recipe):
        found["teacher"] = _cached("model", teacher.id, teacher.revision)
    for name, source in _datasets(recipe):
        found[f"data.mix.{name}" if name else "data"] = _cached("dataset", str(source.id), source.revision)
    return {name: commit for name, commit in found.items() if commit}


def pin(recipe: Recipe, found: dict[str, str]) -> None:
    """Put what `commits` found once back into the recipe."""
    recipe.model.revision = found.get("model", recipe.model.revision)
    if isinstance(recipe.task, Distil):
        recipe.task.teacher_revision = found.get("teacher", recipe.task.teacher_revision)
    for name, source in _datasets(recipe):
        source.revision = found.get(f"data.mix.{name}" if name else "data", source.revision)


def _teacher(recipe: Recipe) -> Model | None:
    """A teacher that is a repository on the Hub."""
    teacher = teacher_of(recipe)
    return teacher if teacher and teacher.run is None and is_hub(teacher) else None


def _datasets(recipe: Recipe) -> list[tuple[str, RowSource]]:
    named: list[tuple[str, RowSource]] = [("", recipe.data), *recipe.data.mix.items()]
    return [(name, source) for name, source in named if source.id]


def _cached(repo_type: str, repo_id: str, revision: str | None) -> str | None:
    """A commit is itself; a branch or tag is a file of that name, written by the client when it last looked."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    reference = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo_id, repo_type=repo_type) / "refs" / (revision or MAIN)
    return reference.read_text(encoding="utf-8").strip() if reference.is_file() else None
