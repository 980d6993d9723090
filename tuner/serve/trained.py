"""`trained(plan)`: a run whose training is done, opened to be tried; `both(run, task)`: its model before and after."""

from __future__ import annotations

from typing import Any

from tuner.context import Run
from tuner.errors import TuneError
from tuner.model.load import pick_device
from tuner.plan import Plan


def trained(plan: Plan) -> Run:
    """The run, on this machine's device. Raises TuneError (code 2) when nothing has been trained yet."""
    if not plan.stage("train").done:
        raise TuneError(f"{plan.name} has not finished training", plan.folder, "run its recipe again: it goes on where it stopped")
    recipe = plan.load_recipe()
    return Run(plan=plan, recipe=recipe, device=pick_device(recipe.hardware), tell=lambda text: None, quiet=True)


def both(run: Run, task: Any) -> dict[str, Any]:
    """Its models, `base` and `tuned`, each loaded by the task's module."""
    return {"base": task.load(run), "tuned": task.load(run, tuned=run.folder)}
