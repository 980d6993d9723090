"""`launcher: local`: one worker process beside the command; the first Ctrl-C is passed on and awaited, the second ends it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import TextIO

from tuner.errors import BUG


def command(plan: Path) -> list[str]:
    """The worker's argv."""
    return [sys.executable, "-m", "tuner.worker", str(plan)]


def submit(argv: list[str], *, output: TextIO | None = None) -> int:
    """Start the worker in a process group of its own (what it prints goes to `output` where given), wait, and return its exit code."""
    worker = subprocess.Popen(argv, start_new_session=True, stdout=output)
    asked = 0

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        worker.send_signal(number if asked == 1 else signal.SIGKILL)

    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        code = worker.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else (128 - code if -code in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP) else BUG)
