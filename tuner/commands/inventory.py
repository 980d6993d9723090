"""What lies in an output folder, for ls, rm and gc: `inspect_run(folder)` gives state, size and headline result of a run."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.commands.request import Request
from tuner.errors import TuneError
from tuner.measures import HEADLINES
from tuner.plan import SHARED, Plan, read_plan
from tuner.runs import find_run, in_use, is_done, read_json
from tuner.schema.recipe import Recipe
from tuner.state import state_of


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """A run at a glance. `state`: running, finished, resume (it was stopped), killed, failed, partial, or damaged (no plan can be read)."""

    run: str
    state: str
    step: int | None
    steps: int | None
    recipe: str
    metric: str
    base: float | None
    tuned: float | None
    age_s: int
    size_bytes: int
    folder: str


def output_folder(request: Request) -> Path:
    """Where a verb looks for runs: `output_dir=…`, else ./outputs. Raises TuneError (code 2) for any other key."""
    folder = next(f.default for f in dataclasses.fields(Recipe) if f.name == "output_dir")
    for override in request.overrides:
        key, _, value = override.partition("=")
        if key != "output_dir":
            raise TuneError(f"cannot place `{override}`", override, "this verb takes `output_dir=FOLDER` and no other key")
        folder = value
    return Path(str(folder)).expanduser()


def take_run(request: Request) -> Path:
    """The run that the request's first word names, looked up in `output_dir=…`, which is taken out of the overrides."""
    places = [o for o in request.overrides if o.startswith("output_dir=")]
    request.overrides = [o for o in request.overrides if o not in places]
    return find_run(request.words[0], output_dir=output_folder(dataclasses.replace(request, overrides=places)))


def inspect_run(folder: Path) -> RunInfo:
    """State, result, age and size of a run folder."""
    running, said = in_use(folder), state_of(folder)
    state, recipe, metric, base, tuned = "running" if running else "damaged", "", "", None, None
    with contextlib.suppress(TuneError, TypeError, KeyError):
        plan = read_plan(folder / "plan.json")
        recipe = plan.recipe_name
        written = {"resume", "killed", "failed"} & {said.get("status", "")}
        state = "running" if running else "finished" if is_finished(folder, plan) else next(iter(written), "partial")
        metric, base, tuned = _headline(folder)
    return RunInfo(
        run=f"{folder.parent.name}@{folder.name}",
        state=state,
        step=said.get("step"),
        steps=said.get("steps"),
        recipe=recipe,
        metric=metric,
        base=base,
        tuned=tuned,
        age_s=max(0, round(time.time() - (folder / "plan.json").stat().st_mtime)),
        size_bytes=size_of(folder),
        folder=str(folder),
    )


def users(output_dir: Path) -> dict[str, list[str]]:
    """Folder of a shared result -> the runs that name it, in their last plan or in one that waits in `plans/`.

    Raises TuneError (code 4) when a plan cannot be read: it might need any of them.
    """
    found = defaultdict[str, list[str]](list)
    for run in sorted({p.parent for p in output_dir.glob("*/*/plan.json")} | {p.parent for p in output_dir.glob("*/*/plans")}):
        plans = [read_plan(p) for p in (*run.glob("plan.json"), *run.glob("plans/*.json"))]
        for folder in {Path(s.folder).name for plan in plans for s in plan.stages if s.name in SHARED}:
            found[folder].append(f"{run.parent.name}@{run.name}")
    return found


def is_finished(folder: Path, plan: Plan) -> bool:
    """Whether it is trained and measured. Publishing does not count: it needs no checkpoint, and each `tune eval` asks for another."""
    return all(is_done(folder, s.name, s.key) for s in plan.stages if s.name in ("train", "evaluate"))


def _headline(folder: Path) -> tuple[str, float | None, float | None]:
    if not (folder / "metrics.json").is_file():
        return "", None, None
    metrics: dict[str, Any] = read_json(folder / "metrics.json")
    for name in HEADLINES:
        if name in metrics["tuned"]:
            return name, metrics["base"].get(name), metrics["tuned"][name]
    return "", None, None


def size_of(path: Path) -> int:
    """Bytes on disk below a path, links not followed; a file that vanishes meanwhile counts nothing."""
    if not path.is_dir():
        return path.lstat().st_size
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def human_size(count: int) -> str:
    """1234567 as `1.2 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError


def human_age(seconds: int) -> str:
    """7300 as `2 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"
