"""Training by several processes of this machine: `over_ranks(run)` starts them through torchrun's elastic agent and waits for the result.

Each runs `tuner.rank` on the run's frozen plan. What they have to say lies in `<run>/ranks`: the leader's result, an error of any of
them, and the output of all but the leader, which speaks for itself.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tuner.context import Run
from tuner.errors import BUG, ENVIRONMENT, Problem, TuneError
from tuner.runs import read_json, write_json
from tuner.schema.hardware import Ddp, Distributed
from tuner.state import OWNER
from tuner.train.callbacks import SIGNALS

FOLDER, RESULT = "ranks", "result.json"
SHUTDOWN_S = 20  # for the others to end, once one has failed
LAST_LINES = 15


def processes(hardware: Distributed, device: torch.device) -> int:
    """As many as asked for, or one a GPU. Raises TuneError (code 4) where there are fewer GPUs, (code 2) where nobody said how many."""
    there = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}.get(device.type, lambda: 0)()
    wanted = hardware.num_processes
    if not there and not isinstance(hardware, Ddp):
        what = f"hardware={hardware.kind} cuts a model over GPUs, and none is here"
        raise TuneError(what, "hardware", "use hardware=auto, or see `tune doctor`", code=ENVIRONMENT)
    if wanted is None and not there:
        raise TuneError("no GPU is here to count", "hardware.num_processes", "say how many processes train: `hardware.num_processes=2`")
    if wanted and there and wanted > there:
        what = f"{wanted} processes need {wanted} GPUs, and {there} are here"
        raise TuneError(what, "hardware.num_processes", "ask for fewer, or see `tune doctor`", code=ENVIRONMENT)
    found = wanted or there
    copies = getattr(hardware, "dp_replicate_size", 1)
    if found % copies:
        what = f"{found} processes cannot hold {copies} copies of the model"
        raise TuneError(what, "hardware.dp_replicate_size", "set it to a divisor of the processes")
    if found % hardware.devices_per_row:
        what = f"{found} processes cannot be grouped by {hardware.devices_per_row} that share a row"
        raise TuneError(what, "hardware.num_processes", f"set {' × '.join(hardware.model_parallel)} to a divisor")
    return found


def over_ranks(run: Run) -> dict[str, Any]:
    """Train, and return the leader's facts for the stage's marker. Raises what a rank raised; {"interrupted": n} after a signal."""
    assert isinstance(run.recipe.hardware, Distributed)
    count = processes(run.recipe.hardware, run.device)
    folder = run.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run.tell(f"{run.recipe.hardware.kind}: {count} process{'es' if count > 1 else ''} on {run.device.type}")
    if run.device.type == "cuda":
        torch.cuda.empty_cache()  # of the base that was measured
    failed: list[BaseException] = []
    agent = threading.Thread(target=_launch, args=(run, count, failed), name="torchrun", daemon=True)
    with _forwarded(folder) as deliver:
        agent.start()
        while agent.is_alive():
            agent.join(0.2)  # in turns, so that signals are seen
            deliver()
    found: dict[str, Any] = read_json(folder / RESULT) if (folder / RESULT).is_file() else {}
    if found and (not failed or "interrupted" in found):  # a leader who leaves is missed by the others
        return found
    raise _error(run, folder, failed[0] if failed else RuntimeError("the processes ended without a result"))


def _launch(run: Run, count: int, failed: list[BaseException]) -> None:
    """torchrun's agent; off the main thread it leaves our signal handlers alone."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed is told by us
    os.environ |= {OWNER: str(os.getpid()), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SHUTDOWN_S)}
    try:
        config = _configuration(run.folder / FOLDER, count)
        elastic_launch(config, sys.executable)("-m", "tuner.rank", str(run.folder / "plan.json"), str(count))
    except BaseException as error:  # told by the main thread
        failed.append(error)
    finally:
        os.environ.pop(OWNER, None)


def _configuration(folder: Path, count: int) -> LaunchConfig:
    """One machine; the output of all but the leader goes into the folder."""
    kept = dict.fromkeys(range(1, count), Std.ALL)
    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=kept or Std.NONE),
    )


@contextmanager
def _forwarded(folder: Path) -> Iterator[Callable[[], None]]:
    """Signals go to the leader, who finishes the step with the others: at once, or when `deliver` is called and he has begun.

    A second Ctrl-C ends this process, and the ranks with it.
    """
    asked: list[int] = []
    waiting: list[int] = []

    def deliver() -> None:
        leader = folder / "leader.json"
        if waiting and leader.is_file():
            with suppress(ProcessLookupError):  # it has ended, and the others are about to
                os.kill(read_json(leader)["pid"], waiting.pop())

    def forward(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)
        waiting.append(number)
        deliver()

    if threading.current_thread() is not threading.main_thread():
        yield deliver
        return
    before = {number: signal.signal(number, forward) for number in SIGNALS}
    try:
        yield deliver
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _error(run: Run, folder: Path, failed: BaseException) -> BaseException:
    """What went wrong first: an error that a rank could name, else the end of the output of the one that died."""
    told = sorted(folder.glob("error-*.json"), key=lambda p: p.stat().st_mtime)
    if told:
        said = read_json(told[0])
        return TuneError(problems=[Problem(**problem) for problem in said["problems"]], code=said["code"])
    if not isinstance(failed, ChildFailedError):
        return failed
    rank, failure = failed.get_first_failure()
    logs = sorted(folder.glob(f"*/attempt_0/{rank}/stderr.log"))
    lines = logs[0].read_text(encoding="utf-8", errors="replace").strip().splitlines()[-LAST_LINES:] if logs else []
    ended = f"was ended by signal {-failure.exitcode}" if failure.exitcode < 0 else f"ended with exit code {failure.exitcode}"
    what = "\n".join([f"process {rank} of the training {ended}", *lines])
    why = "one that is killed had too little memory, mostly" if failure.exitcode < 0 else "its error stands above"
    fix = "the same command goes on from the last checkpoint" + ("" if lines else f"; {why}")
    return TuneError(what, str(folder), fix, code=ENVIRONMENT if failure.exitcode < 0 else BUG)


def write_error(folder: Path, rank: int, error: TuneError) -> None:
    """For the one who started the ranks."""
    problems = [{"what": p.what, "where": p.where, "fix": p.fix} for p in error.problems]
    write_json(folder / f"error-{rank}.json", {"code": error.code, "problems": problems})
