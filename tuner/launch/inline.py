"""`launcher: inline`: the worker inside the command's own process, for a debugger."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TextIO

from tuner.errors import BUG
from tuner.registry import load


def command(plan: Path) -> list[str]:
    """What would be typed to get the same."""
    return ["python", "-m", "tuner.worker", str(plan)]


def submit(argv: list[str], *, output: TextIO | None = None) -> int:
    """Run the worker's main on the plan that `command` named; what it prints goes to `output` where given."""
    try:
        with contextlib.redirect_stdout(output or sys.stdout):
            return int(load("tuner.worker").main(argv[-1:]))
    except SystemExit as stop:  # rich, when nobody reads on: the work is not done
        return int(stop.code or BUG)
