"""`launcher: inline`: the worker inside the command's own process, for a debugger."""

from __future__ import annotations

from pathlib import Path

from tuner.registry import load


def command(plan: Path) -> list[str]:
    """What would be typed to get the same."""
    return ["python", "-m", "tuner.worker", str(plan)]


def submit(argv: list[str]) -> int:
    """Run the worker's main on the plan that `command` named."""
    return int(load("tuner.worker").main(argv[-1:]))
