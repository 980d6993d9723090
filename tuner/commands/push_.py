"""`tune push RUN [hub.repo_id=owner/name] [hub.private=false]`: publish a finished run. It needs neither data nor base model any more.

Without `hub.repo_id` here or in the recipe, the run's `published/` folder is laid out anew. Other `hub.*` keys may be given the same way.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tuner import gate
from tuner.commands.amend import amend, run_again
from tuner.commands.inventory import take_run
from tuner.commands.request import parse
from tuner.errors import ENVIRONMENT, TuneError
from tuner.plan import Plan, amended, read_plan
from tuner.registry import load
from tuner.render import err, out, print_json
from tuner.runs import lock, mark_done
from tuner.state import settled


def main(args: list[str]) -> int:
    """Publish a run."""
    request = parse(args, words=1)
    if not request.words:
        raise TuneError("which run?", "", "say `tune push RUN hub.repo_id=owner/name`; `tune ls runs` lists them")
    plan = _plan(take_run(request), request.overrides)
    gate.hold(plan)
    result = _publish(plan, tell=(err if request.json else out).print)
    if request.json:
        print_json(result)
    return 0


def _plan(folder: Path, overrides: list[str]) -> Plan:
    """The run's plan, to be published as asked now. Raises TuneError (code 2) for a run without a result, or another key."""
    plan = read_plan(folder / "plan.json")
    if not plan.stage("train").done:
        raise TuneError(f"{plan.name} has not finished training", str(folder), f"finish it first: `tune {run_again(folder)}`")
    recipe = amend(plan, overrides, section="hub", folder=folder)
    recipe.hub.enabled = True
    return amended(plan, recipe, folder=folder, anew=("publish",))


def _publish(plan: Plan, *, tell: Callable[[str], None]) -> dict[str, object]:
    """Ask the Hub first, then publish under the run's lock and mark it as done, as the worker would."""
    recipe, folder, stage = plan.load_recipe(), Path(plan.folder), plan.stage("publish")
    if problems := load("tuner.hub.preflight").preflight(recipe):
        raise TuneError(problems=problems, code=ENVIRONMENT)
    with lock(folder):
        plan.write(folder / "plan.json")
        load("tuner.hub.card").write_card(folder)
        started = time.perf_counter()
        result: dict[str, object] = load("tuner.hub.push").publish(plan, recipe, progress=tell)
        settled(folder)
        mark_done(folder, "publish", stage.key, {"seconds": round(time.perf_counter() - started, 1), **result})
    return result
