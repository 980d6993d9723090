"""`launcher: local`: one worker process beside the command; signals are passed on and awaited, a second Ctrl-C ends it."""

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
    asked = False

    def forward(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        worker.send_signal(signal.SIGKILL if asked and number == signal.SIGINT else number)
        asked = True

    before = {s: signal.signal(s, forward) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)}
    try:
        code = worker.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else (128 - code if -code in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP) else BUG)
