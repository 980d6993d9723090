"""The process that does the work: `python -m tuner.worker plan.json [--only prepare,… | --check | --preview ROW]`. Reads only the plan."""

from __future__ import annotations

import errno
import gc
import os
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from tuner import gate
from tuner.errors import BUG, GATE, INTERRUPTED, OK, Stopped, TuneError
from tuner.extensions import load_planned
from tuner.plan import Plan, needs_hub, read_plan
from tuner.recipe_file import write_recipe
from tuner.registry import load, load_extensions
from tuner.render import loading, out, print_bug, print_error, print_notes, print_result
from tuner.runs import disk_error, lock, read_json
from tuner.schema.recipe import Recipe
from tuner.state import recorded
from tuner.worker_env import quiet, without_hub

FULL_BYTES = 1 << 20


def main(argv: list[str]) -> int:
    """Run a plan's stages under the lock of its folder."""
    only = tuple(argv[argv.index("--only") + 1].split(",")) if "--only" in argv else ()
    quiet()
    try:
        load_extensions()
        plan = read_plan(Path(argv[0]))
        load_planned(plan.extensions)
        if needs_hub(plan.load_recipe()) and (told := without_hub()):
            print_notes([told])
        if "--check" in argv:
            return int(
                load("tuner.checkup").report(make_run(plan, tell=_silent if "--json" in argv else out.print), as_json="--json" in argv)
            )
        if "--preview" in argv:
            run = make_run(plan, tell=_silent)
            row = int(argv[argv.index("--preview") + 1])
            return int(load("tuner.preview").report(run, row=row, as_json="--json" in argv))
        with lock(Path(plan.folder)), recorded(Path(plan.folder)):
            plan.write(Path(plan.folder) / "plan.json")
            write_recipe(plan)
            return _run(plan, only)
    except TuneError as error:
        print_error(error)
        return error.code
    except (KeyboardInterrupt, Terminated) as stop:
        out.print("stopped; the same command goes on from the last stage that is done")
        return stop.code if isinstance(stop, Terminated) else INTERRUPTED
    except Stopped as stop:  # by training, which has told
        return stop.code
    except Exception as error:
        print_bug(error)
        return BUG


class Terminated(Stopped):
    """SIGTERM, SIGUSR1 or SIGHUP, outside training (which has its own way to stop)."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def settle_memory() -> None:
    """The libraries stay, and rows hold no cycles: looking through both whenever many rows are made takes a tenth of preparing them."""
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _run(plan: Plan, only: tuple[str, ...]) -> int:
    began = time.perf_counter()
    out.print(f"{plan.name}: {plan.folder}")
    with loading():
        pipeline = load("tuner.pipeline")
    run = make_run(plan, tell=out.print)
    settle_memory()
    out.print(f"libraries loaded in {time.perf_counter() - began:.1f} s")
    try:
        pipeline.execute(run, only=only)
    except TuneError as error:
        if error.code == GATE and any(not judgement.holds for judgement in gate.of_plan(plan)):
            print_result(plan)
        raise
    except Exception as error:
        raise _explained(error, Path(plan.folder)) from error
    print_result(plan)
    gate.hold(plan)
    for problem in run.kept.get("unpublished", ()):
        later = f"tune push {shlex.quote(f'{plan.name}@{Path(plan.folder).name}')}"
        print_notes([f"not published: {problem.what} ({problem.fix}). The run is complete; `{later}` uploads it"])
    return OK


def make_run(plan: Plan, *, tell: Any) -> Any:
    """A Run of the plan in this process, on its device."""
    recipe = plan.load_recipe()
    _pin(recipe, Path(plan.folder) / "lock.json")
    with loading():
        device = load("tuner.model.load").pick_device(recipe.hardware)
    return load("tuner.context").Run(plan=plan, recipe=recipe, device=device, tell=tell, quiet=tell is _silent)


def _pin(recipe: Recipe, lock_file: Path) -> None:
    """Take the Hub commits that this run resolved at first: a moved branch changes nothing until `refresh=true` makes a new run."""
    commits = read_json(lock_file)["commits"] if lock_file.is_file() else {}
    if commits:
        load("tuner.hub.revisions").pin(recipe, commits)


def _silent(_: str) -> None:
    return None


def _explained(error: Exception, folder: Path) -> Exception:
    """A full disk has many errors (safetensors and torch have their own): tell by the disk, else leave it as it is."""
    if shutil.disk_usage(folder).free < FULL_BYTES:
        return disk_error(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), folder)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT, errno.EPERM):
        return disk_error(error, Path(error.filename or folder))
    return error


def stop_with_parent(number: int = signal.SIGTERM) -> None:
    """End as on that signal when the process that started us is gone, so that no orphan holds the run folder."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), number)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    stop_with_parent()
    for wanted in (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP):
        signal.signal(wanted, _terminate)
    sys.exit(main(sys.argv[1:]))
