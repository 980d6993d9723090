"""`tune recipe=R [key=value …]`: compose, freeze into a plan, hand it to the launcher. Again: goes on, or does nothing.

`--json` prints one object (name, folder, metrics, stages) when the run is done; what happens meanwhile goes to stderr.
"""

from __future__ import annotations

import dataclasses
import shlex
import sys
from pathlib import Path

from tuner import gate
from tuner.commands.request import parse, planned
from tuner.estimate import estimate
from tuner.plan import Plan, read_plan
from tuner.recipe_file import write_recipe
from tuner.registry import load
from tuner.render import out, print_json, print_plan, print_result, shorten
from tuner.runs import lock, read_json


def main(args: list[str]) -> int:
    """Run a recipe, or print its plan with dry_run=true."""
    request = parse(args, flags=("--json", "--extensions", "--trust"))
    plan = planned(request)
    launcher = load(plan.load_recipe().launcher.impl)
    path = plan_path(plan)
    command = launcher.command(path)
    if "dry_run" in request.switches:
        size = estimate(plan)
        if request.json:
            states = {s.name: {"key": s.key, "done": s.done, "needs": s.needs} for s in plan.stages}
            print_json(
                {"name": plan.name, "folder": plan.folder, "stages": states, "estimate": dataclasses.asdict(size), "command": command}
            )
        else:
            print_plan(plan, size, command=shlex.join(command))
        return 0
    if plan.done:
        _show_again(plan)
        if request.json:
            gate.hold(plan)
            return _as_json(plan)
        out.print(f"nothing to do: {plan.name} is finished in {shorten(plan.folder)}")
        print_result(plan)
        gate.hold(plan)
        return 0
    plan.write(path)
    if not request.json:
        return int(launcher.submit(command))
    return int(launcher.submit(command, output=sys.stderr)) or _as_json(plan)


def _as_json(plan: Plan) -> int:
    """A finished run for a program; what the worker says went to stderr."""
    metrics = Path(plan.folder) / "metrics.json"
    stages = {s.name: {"key": s.key, "done": s.done} for s in plan.stages}
    print_json({"name": plan.name, "folder": plan.folder, "metrics": read_json(metrics) if metrics.is_file() else None, "stages": stages})
    return 0


def _show_again(plan: Plan) -> None:
    """A finished run shows what was asked for last: settings that enter no key (`eval.examples`), an evaluation of before."""
    folder = Path(plan.folder)
    if read_plan(folder / "plan.json") == plan:
        return
    with lock(folder):
        plan.write(folder / "plan.json")
        write_recipe(plan)
        load("tuner.summary").summarise(plan)


def plan_path(plan: Plan) -> Path:
    """Where a plan is handed to the worker: one file a set of keys, so that two commands at once cannot mix theirs."""
    return Path(plan.folder) / "plans" / f"{plan.stages[-1].key}.json"
