"""Progress a person can read: `with bar("held-out answers", 120) as tick: tick(32)` — a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from tuner.render import out

LINE_EVERY_S = 10.0


@contextmanager
def bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes the number of items done so far."""
    with _live() if out.is_terminal else _Lines() as view:
        task = view.add_task(label, total=total, extra="")
        yield lambda done: view.update(task, completed=done)


@contextmanager
def training(total: int, done: int, *, counted: str) -> Iterator[Callable[[dict[str, float], int, float], None]]:
    """Yields the report of training, told in `counted` a second: takes a log entry, the total of steps and the seconds left."""
    if not out.is_terminal:
        yield lambda entry, steps, left: out.print(step_line(entry, steps, left, counted=counted))
        return
    with _live() as view:
        task = view.add_task("training", total=total, completed=done, extra="")
        held_out = ""

        def report(entry: dict[str, float], steps: int, left: float) -> None:
            nonlocal held_out
            if "eval_loss" in entry:
                held_out = f"  held out {entry['eval_loss']:.3f}"
                return
            view.update(task, completed=entry["step"], extra=_facts(entry, counted) + held_out)

        yield report


def step_line(entry: dict[str, float], steps: int, left: float, *, counted: str) -> str:
    """`step 12/56  loss 0.412  lr 1.9e-03  338 tok/s  left 1:02`."""
    if "eval_loss" in entry:
        return f"step {int(entry['step'])}/{steps}  held-out loss {entry['eval_loss']:.4f}"
    return f"step {int(entry['step'])}/{steps}  {_facts(entry, counted)}  left {clock(left)}"


def _facts(entry: dict[str, float], counted: str) -> str:
    reward = f"reward {entry['reward']:.3f}  " if "reward" in entry else ""
    return f"{reward}loss {entry['loss']:.4f}  lr {entry['learning_rate']:.1e}  {entry['tokens_per_s']:.0f} {counted}/s"


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss; a dash when unknown."""
    if seconds != seconds:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _live() -> Progress:
    columns = (
        TextColumn("{task.description:<17}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[extra]}"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=out)


class _Lines:
    """The interface of rich's Progress that is used here, as plain lines."""

    def __enter__(self) -> _Lines:
        self.tasks: list[tuple[str, int]] = []
        self.told = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add_task(self, label: str, *, total: int, extra: str) -> TaskID:
        self.tasks.append((label, total))
        return TaskID(len(self.tasks) - 1)

    def update(self, task: TaskID, *, completed: float) -> None:
        label, total = self.tasks[task]
        if completed >= total or time.monotonic() - self.told >= LINE_EVERY_S:
            self.told = time.monotonic()
            out.print(f"{label}  {int(completed)}/{total}")
