"""One of several processes that train: `python -m tuner.rank plan.json COUNT`, started by `tuner/train/ranks.py` through torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tuner.errors import OK, Stopped, TuneError
from tuner.extensions import load_planned
from tuner.plan import Plan, needs_hub, read_plan
from tuner.registry import load, load_extensions
from tuner.render import out
from tuner.runs import write_json
from tuner.worker import make_run, settle_memory, stop_with_parent
from tuner.worker_env import quiet, without_hub


def main(argv: list[str]) -> int:
    """Train with the others; the leader writes the result, and each its own error."""
    quiet()
    load_extensions()
    plan = read_plan(Path(argv[0]))
    load_planned(plan.extensions)
    rank, ranks = int(os.environ["RANK"]), load("tuner.train.ranks")
    folder = Path(plan.folder) / ranks.FOLDER
    try:
        result = _train(plan, leads=rank == 0, count=int(argv[1]), folder=folder)
        if rank == 0:
            write_json(folder / ranks.RESULT, result)
        return OK
    except TuneError as error:
        ranks.write_error(folder, rank, error)
        return error.code


def _train(plan: Plan, *, leads: bool, count: int, folder: Path) -> dict[str, Any]:
    if leads:
        write_json(folder / "leader.json", {"pid": os.getpid()})
    recipe = plan.load_recipe()
    if needs_hub(recipe):
        without_hub()
    os.environ |= load("tuner.train.strategies.base").strategy_of(recipe.hardware).environment(recipe.hardware)
    run = make_run(plan, tell=out.print if leads else _silent)
    load("tuner.train.together").settle_in(run, leads=leads, count=count)
    settle_memory()
    try:
        found: dict[str, Any] = load("tuner.train.fit").fit(run, load(recipe.task.impl), run.stage_folder("prepare"))
        return found
    except Stopped as stop:
        return {"interrupted": stop.number}
    except KeyboardInterrupt:
        return {"interrupted": int(signal.SIGINT)}


def _silent(_: str) -> None:
    return None


if __name__ == "__main__":
    stop_with_parent()
    code = main(sys.argv[1:])
    load("tuner.train.together").part()
    sys.exit(code)
