"""What a person sees in the terminal: errors, plans, tables; plain text or JSON when asked. Light: rich, no torch."""

from __future__ import annotations

import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tuner.errors import TuneError
from tuner.estimate import Estimate
from tuner.gate import of_plan
from tuner.plan import Plan
from tuner.runs import read_json

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
WIDE = 200  # letters of a line
LARGE = 10_000


def loading() -> AbstractContextManager[object]:
    """On a terminal, a line that says so while libraries are loaded (5 s), and goes away."""
    return err.status("loading libraries …") if err.is_terminal else nullcontext()


def print_error(error: TuneError) -> None:
    """Every problem: what, where, what to do."""
    for problem in error.problems:
        err.print(f"[bold red]error[/]: {escape(problem.what)}")
        if problem.where:
            err.print(f"  at: {escape(problem.where)}")
        if problem.fix:
            err.print(f"  fix: {escape(problem.fix)}")
    if len(error.problems) > 1:
        err.print(f"{len(error.problems)} problems")


def print_bug(error: Exception) -> None:
    """A fault of ours: the traceback goes into a file, the person gets one message."""
    with tempfile.NamedTemporaryFile("w", prefix="tune-bug-", suffix=".txt", delete=False, encoding="utf-8") as stream:
        stream.write("".join(traceback.format_exception(error)))
    err.print(f"[bold red]bug[/]: {type(error).__name__}: {escape(str(error))}")
    err.print(f"  this is a fault of tune, not yours; the details are in {stream.name}, please report them")


def print_json(value: Any) -> None:
    """`value` for a program."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def print_notes(notes: Sequence[str]) -> None:
    """What was decided on the person's behalf."""
    for note in notes:
        err.print(f"[yellow]note[/]: {escape(note)}")


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    right: Sequence[int] = (),
    aligned: bool = False,
    close: bool = False,
) -> None:
    """A table on a terminal, its columns `close` where there are many; elsewhere tab-separated lines, or the same when `aligned`."""
    if not out.is_terminal and not aligned:
        for row in rows:
            sys.stdout.write("\t".join(row) + "\n")
        return
    view = Table(title=title or None, title_justify="left", box=None, pad_edge=False, collapse_padding=close, header_style="bold")
    for index, column in enumerate(columns):
        view.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        view.add_row(*(escape(cell) for cell in row))
    console = out if out.is_terminal else Console(file=out.file, width=WIDE)  # in a file no line is folded
    console.print(view)


def print_plan(plan: Plan, size: Estimate, *, command: str) -> None:
    """The plan as `dry_run=true` shows it."""
    about = "" if size.exact else "≈ "
    model = str(plan.recipe["model"]["id"])
    if before := plan.recipe["model"].get("run"):
        model += f", as {Path(before).parent.name} left it"
    out.print(f"[bold]{escape(plan.name)}[/]  {escape(model)}  ->  {escape(shorten(plan.folder))}\n")
    rows = [[s.name, s.key, "done" if s.done else "to do", " ".join(s.needs)] for s in plan.stages]
    table(["stage", "key", "state", "needs"], rows)
    facts = {
        "steps": number(size.steps) + (f" of {plan.recipe['trainer']['batch_size']} rows" if size.steps else ""),
        "rows": about * (size.rows is not None) + number(size.rows),
        "tokens": about * (size.tokens is not None) + number(size.tokens) + (" in all epochs" if size.tokens else ""),
        "trainable": _share(size),
        "memory": f"≈ {size.memory}" if size.memory else "unknown until the model is here",
        "launch": command,
    }
    if not plan.load_recipe().task.planned:
        unknown = {"trainable"} if size.tokens else {"trainable", "tokens"}
        facts = {key: text for key, text in facts.items() if key not in unknown} | {"memory": "not worked out for such models"}
    if plan.extensions:
        facts["own code"] = ", ".join(f"{shorten(path)} (sha256 {sha256[:12]}…)" for path, sha256 in plan.extensions.items())
    out.print()
    for name, text in facts.items():
        out.print(f"{name:<10} {escape(text)}")


def decimals(value: float | None, *, sign: str = "") -> str:
    """Three decimals, one where it is large; a dash for none."""
    if value is None:
        return "–"
    return f"{value:{sign}.3f}" if abs(value) < LARGE else f"{value:{sign},.1f}"


def print_result(plan: Plan) -> None:
    """The last thing on the screen: base against tuned on the held-out rows, and where everything is."""
    path = Path(plan.folder) / "eval" / plan.stage("evaluate").key / "metrics.json" if plan.has("evaluate") else None
    if path is not None and path.is_file():
        found = read_json(path)
        rows = []
        for name, base in found["base"].items():
            interval, tuned = found["intervals"].get(name), found["tuned"][name]
            rows.append(
                [
                    name.removeprefix("field/"),
                    decimals(base),
                    decimals(tuned),
                    decimals(tuned - base, sign="+"),
                    " … ".join(decimals(bound, sign="+") for bound in interval) if interval else "",
                    found["verdicts"].get(name, "not tested"),
                ]
            )
        out.print()
        table(
            ["held-out rows: " + number(found["rows"]), "base", "tuned", "change", "95 % interval", ""],
            rows,
            right=(1, 2, 3, 4),
            aligned=True,
        )
        for judgement in of_plan(plan):
            out.print(f"gate: {'passed' if judgement.holds else 'FAILED'}  {escape(judgement.rule)}  ({escape(judgement.said)})")
    out.print(f"\nreport: {shorten(Path(plan.folder) / 'report.html')}")
    if plan.load_recipe().debug.keeps:
        out.print(f"try it: tune try {plan.name}")


def _share(size: Estimate) -> str:
    if not size.trainable or not size.parameters:
        return "unknown until the model is here"
    return f"{number(size.trainable)} of {number(size.parameters)} parameters ({size.trainable / size.parameters:.2%})"


def number(value: int | None) -> str:
    """12345678 as 12,345,678; a dash for what is not known."""
    return "–" if value is None else f"{value:,}"


def shorten(path: str | Path) -> str:
    """A path relative to here where that is shorter."""
    return str(Path(path).relative_to(Path.cwd())) if Path(path).is_relative_to(Path.cwd()) else str(path)
