"""The model that `task.teacher` names: `teacher_of(recipe)` -> a Model, whatever it is called by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tuner.errors import TuneError
from tuner.schema.adapter import Full
from tuner.schema.distil import Distil, Held
from tuner.schema.documents import RUN, find_option, model_of_run
from tuner.schema.model import Dtype, Model
from tuner.schema.recipe import Recipe, from_section

KEY = "task.teacher"


def teacher_of(recipe: Recipe) -> Model | None:
    """The model that teaches; None of a task without one. Raises TuneError (code 2) for a name that is none."""
    task = recipe.task
    if not isinstance(task, Distil) or not task.teacher:
        return None
    name, folder = task.teacher, Path(task.teacher).expanduser()
    if name.startswith(RUN) or (folder / "plan.json").is_file():
        model = from_section(Model, model_of_run(name, output_dir=recipe.output_dir, where=KEY).data)
    elif folder.is_dir() or "/" in name:
        model = Model(id=name)
    else:
        document = find_option("model", name, where=KEY)
        if document is None or "id" not in document.data:
            raise TuneError(f"the option `{name}` names no model", KEY, "name another, an id of the Hub, a folder or run:NAME")
        model = from_section(Model, document.data)
    dtype = recipe.model.dtype if task.teacher_dtype is Dtype.auto else task.teacher_dtype
    return replace(model, dtype=dtype, revision=task.teacher_revision or model.revision)


def is_base(recipe: Recipe) -> bool:
    """Whether the student's own base teaches it, which is then there already: with the adapter off."""
    teacher, model, task = teacher_of(recipe), recipe.model, recipe.task
    if teacher is None or isinstance(recipe.adapter, Full) or not isinstance(task, Distil):
        return False
    asked = task.teacher_quant is not Held.none or task.teacher_dtype is not Dtype.auto
    alike = all(getattr(teacher, name) == getattr(model, name) for name in ("id", "revision", "source", "wheel", "run"))
    return alike and not asked
