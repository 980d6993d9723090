"""One of several processes that train: `python -m tuner.rank plan.json COUNT`, started by `tuner/train/ranks.py` through torchrun."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from tuner.errors import OK, Stopped, TuneError
from tuner.extensions import load_planned
from tuner.plan import Plan, needs_hub, read_plan
from tuner.registry import load, load_extensions
from tuner.render import out
from tuner.runs import write_json
from tuner.worker import make_run, settle_memory, stop_with_parent
from tuner.worker_env import quiet, without_hub

STOPPED = 1  # not with the others, who would wait: torchrun then ends them


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
        left = result.pop("left", False)
        if rank == 0:
            write_json(folder / ranks.RESULT, result)
        return STOPPED if left else OK
    except TuneError as error:
        ranks.write_error(folder, rank, error)
        return error.code


def _train(plan: Plan, *, leads: bool, count: int, folder: Path) -> dict[str, Any]:
    """The leader's facts; or the signal that stopped it, before training has handlers of its own or after."""
    try:
        if leads:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
                signal.signal(number, _stop)
            write_json(folder / "leader.json", {"pid": os.getpid()})
        return _fit(plan, leads=leads, count=count)
    except Stopped as stop:
        return {"interrupted": stop.number, "left": type(stop) is Stopped}
    except KeyboardInterrupt:
        return {"interrupted": int(signal.SIGINT), "left": True}


def _fit(plan: Plan, *, leads: bool, count: int) -> dict[str, Any]:
    recipe = plan.load_recipe()
    if needs_hub(recipe):
        without_hub()
    os.environ |= load("tuner.train.strategies.base").strategy_of(recipe.hardware).environment(recipe.hardware)
    run = make_run(plan, tell=out.print if leads else _silent)
    load("tuner.train.together").settle_in(run, leads=leads, count=count)
    settle_memory()
    found: dict[str, Any] = load("tuner.train.fit").fit(run, load("tuner.tasks").module_of(recipe.task), run.stage_folder("prepare"))
    return found


def _stop(number: int, frame: FrameType | None) -> None:
    raise Stopped(number)


def _silent(_: str) -> None:
    return None


if __name__ == "__main__":
    stop_with_parent(signal.SIGKILL)  # the lock of the run folder went with it: nothing more may be written
    code = main(sys.argv[1:])
    load("tuner.train.together").part()
    sys.exit(code)
