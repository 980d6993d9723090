"""`recipe.yaml` of a run folder: every value resolved, ready to run again. `write_recipe(plan)`."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from tuner.files import SHIPPED_DATA, is_remote
from tuner.plan import Plan
from tuner.registry import kinds
from tuner.runs import write_text
from tuner.schema.base import said
from tuner.schema.data import source_key
from tuner.schema.recipe import GROUPS
from tuner.task_files import is_file


def write_recipe(plan: Plan) -> None:
    """Write `recipe.yaml` into the run folder: every value resolved, so that it gives the same run wherever its files are found."""
    values = {k: v for k, v in plan.recipe.items() if k != "kind"}
    variants = [{group: values[group]["kind"]} for group in GROUPS if kinds(group)]
    sections = {k: {i: j for i, j in v.items() if i != "kind"} if isinstance(v, dict) else v for k, v in values.items()}
    data = sections["data"]
    for key in ("path", "eval_path"):
        data[key] = _absolute(data[key], plan.files.get(f"data.{key}"))
    sections["eval"]["general"] = _absolute(sections["eval"]["general"], plan.files.get("eval.general"))
    if benchmarks := sections["eval"]["lm_eval"]:
        files = iter(plan.files.get("eval.lm_eval.tasks", []))
        sections["eval"]["lm_eval"] = benchmarks | {"tasks": [next(files) if is_file(name) else name for name in benchmarks["tasks"]]}
    data["mix"] = {name: said(source) for name, source in plan.load_recipe().data.mix.items()}
    for name, source in data["mix"].items():
        if "path" in source:
            source["path"] = _absolute(source["path"], plan.files.get(source_key(name, "path")))
    sections = {k: v for k, v in sections.items() if v != {}}
    head = f"# {plan.name}: the resolved recipe of this run, by tune {plan.tuner}\n# run it again: tune recipe=recipe.yaml{_flags(plan)}\n"
    write_text(
        Path(plan.folder) / "recipe.yaml",
        head + yaml.safe_dump({"defaults": variants, **sections}, sort_keys=False, allow_unicode=True, width=140),
    )


def _absolute(path: str | None, files: list[str] | None) -> str | None:
    """The data path as it was written where it names a shipped set (or an address), else absolute."""
    if path is None or not files or is_remote(path) or all(Path(f).is_relative_to(SHIPPED_DATA) for f in files):
        return path
    if "*" in path:
        return str(Path(files[0]).parent / Path(path).name)
    return os.path.commonpath([os.path.dirname(f) for f in files]) if len(files) > 1 else files[0]


def _flags(plan: Plan) -> str:
    """The flags that name a person's own files, without their folders: the file may be published."""
    return "".join(f" --extensions {Path(path).name}" for path in plan.extensions) + (" --trust" if plan.extensions else "")
