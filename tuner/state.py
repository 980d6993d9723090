"""What a run is doing: `state.json` in its folder, `{"status": "resume", "stage": "train", "step": 120, …}`; whole at any moment.

`status`: running, resume (stopped on request, the same command goes on), failed, finished. `step` is the last step with a whole
checkpoint. A process that was killed leaves "running" behind, without its lock on the folder: `state_of` calls that "killed".
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.errors import Stopped, TuneError
from tuner.runs import in_use, read_json, write_json

FILE = "state.json"
OWNER = "TUNER_OWNER"  # in a process that trains for another: the pid of the one that has the run's lock


def read_state(folder: Path) -> dict[str, Any]:
    """What was written last; empty where there is none that can be read."""
    with contextlib.suppress(TuneError):
        found = read_json(folder / FILE)
        return found if isinstance(found, dict) else {}
    return {}


def state_of(folder: Path) -> dict[str, Any]:
    """The same, with "killed" for a process that is gone and could not say so."""
    state = read_state(folder)
    if state.get("status") == "running" and not in_use(folder):
        state["status"] = "killed"
    return state


def told(state: dict[str, Any]) -> str:
    """For a line: `resume (train, step 120 of 500)`."""
    steps = f", step {state['step']} of {state['steps']}" if state.get("steps") else ""
    stage = f" ({state['stage']}{steps})" if state.get("stage") and state["status"] != "finished" else ""
    reason = f": {state['reason']}" if state.get("reason") else ""
    return f"{state['status']}{stage}{reason}"


def note(folder: Path, **values: Any) -> None:
    """Change what is said of a run that this process is doing; nothing where it is not."""
    state = read_state(folder)
    if state.get("pid") in (os.getpid(), int(os.environ.get(OWNER, 0))) and state.get("host") == os.uname().nodename:
        _write(folder, state | values)


def settled(folder: Path) -> None:
    """What was the matter with a finished run is no more: its result is published now."""
    state = read_state(folder)
    if state.pop("reason", None) and state.get("status") == "finished":
        _write(folder, state)


@contextlib.contextmanager
def recorded(folder: Path) -> Iterator[None]:
    """Says what becomes of a run, whose lock is held: running, then finished, resume or failed."""
    for half in folder.glob(f".{FILE}.*.tmp"):  # of a process that was killed
        half.unlink(missing_ok=True)
    before = {name: value for name, value in read_state(folder).items() if name in ("step", "steps")}
    _write(folder, {"status": "running", "stage": "", "pid": os.getpid(), "host": os.uname().nodename} | before)
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        note(folder, status="resume")
        raise
    except BaseException as error:
        with contextlib.suppress(TuneError):  # of a full disk: the error itself is what counts
            note(folder, status="failed", reason=(str(error) or type(error).__name__).splitlines()[0][:300])
        raise
    note(folder, status="finished")


def _write(folder: Path, state: dict[str, Any]) -> None:
    write_json(folder / FILE, state | {"updated": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())})
