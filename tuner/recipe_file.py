"""`recipe.yaml` of a run folder: every value resolved, ready to run again. `write_recipe(plan)`."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tuner.errors import TuneError
from tuner.files import find_files
from tuner.plan import Plan
from tuner.registry import kinds
from tuner.runs import write_text
from tuner.schema.recipe import GROUPS


def write_recipe(plan: Plan) -> None:
    """Write `recipe.yaml` into the run folder: every value resolved, so that it gives the same run wherever its files are found."""
    values = {k: v for k, v in plan.recipe.items() if k != "kind"}
    variants = [{group: values[group]["kind"]} for group in GROUPS if kinds(group)]
    sections = {k: {i: j for i, j in v.items() if i != "kind"} if isinstance(v, dict) else v for k, v in values.items()}
    data = sections["data"]
    for key in ("path", "eval_path"):
        data[key] = _found_from(Path(plan.folder), data[key], plan.files.get(f"data.{key}"), data["format"])
    sections = {k: v for k, v in sections.items() if v != {}}
    head = f"# {plan.name}: the resolved recipe of this run, by tune {plan.tuner}\n# run it again: tune recipe=recipe.yaml\n"
    write_text(
        Path(plan.folder) / "recipe.yaml",
        head + yaml.safe_dump({"defaults": variants, **sections}, sort_keys=False, allow_unicode=True, width=140),
    )


def _found_from(folder: Path, path: str | None, files: list[str] | None, form: str) -> str | None:
    """The data path as it was written, or absolute where it would not be found from here by the recipe in the run folder."""
    if path is None or files is None:
        return path
    try:
        if find_files(path, beside=folder, form=form) == files:
            return path
    except TuneError:
        pass
    if "*" in path:
        return str(Path(files[0]).parent / Path(path).name)
    return os.path.commonpath([os.path.dirname(f) for f in files]) if len(files) > 1 else files[0]
