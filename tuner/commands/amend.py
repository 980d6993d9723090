"""Changes to a finished run's recipe: `amend(plan, ["hub.repo_id=me/tickets"], section="hub", folder=folder)` -> the recipe, checked."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from tuner.checks import RULES
from tuner.errors import Problem, TuneError
from tuner.plan import Plan
from tuner.render import shorten
from tuner.schema.layers import parse_overrides
from tuner.schema.reading import Reading
from tuner.schema.recipe import Recipe
from tuner.schema.walk import Walk


def run_again(folder: Path) -> str:
    """What is typed after `tune` to go on with the run in a folder. Its recipe's name may be that of another recipe by now."""
    return shlex.quote(f"recipe={shorten(folder / 'recipe.yaml')}")


def amend(plan: Plan, overrides: list[str], *, section: str, folder: Path) -> Recipe:
    """The recipe of the run in `folder` with overrides of one section.

    Raises TuneError (code 2) with every problem, keys of other sections included.
    """
    recipe = plan.load_recipe()
    reading = Reading(recipes={}, choices=plan.choices)
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for raw, key, value in parse_overrides(overrides, reading):
        name, _, inner = key.partition(".")
        if name != section or not inner:
            reading.problems.append(_elsewhere(key, raw, section=section, folder=folder))
            continue
        place, _, last = inner.rpartition(".")
        within = values
        for part in place.split(".") if place else ():
            within = within.setdefault(part, {})
        within[last], given[key] = value, raw
    walk = Walk(variants=reading.variants, problems=reading.problems, notes=[], switched=set())
    clean = walk.mapping({section: values}, Recipe, "", lambda key: given.get(key, key))[section]
    merged = OmegaConf.merge(OmegaConf.structured(getattr(recipe, section)), clean)
    setattr(recipe, section, OmegaConf.to_object(merged))
    problems = [*reading.problems]
    for rule in RULES:
        problems += [Problem(what=what, where=given[key], fix=fix) for key, what, fix in rule(recipe) if key in given]
    if problems:
        raise TuneError(problems=problems)
    return recipe


def _elsewhere(key: str, raw: str, *, section: str, folder: Path) -> Problem:
    """A key that this verb does not take, and the command that does."""
    name, _, inner = key.partition(".")
    verb = {"eval": "eval", "hub": "push"}.get(name)
    if verb and inner:
        command, what = f"tune {verb} {shlex.quote(shorten(folder))} {shlex.quote(raw)}", f"`{key}` belongs to `tune {verb}`"
        return Problem(what=what, where=raw, fix=f"this verb takes keys of `{section}` alone: `{command}`")
    fix = f"this verb takes keys of `{section}` alone; anything else is a new run: `tune {run_again(folder)} {shlex.quote(raw)}`"
    return Problem(what=f"`{key}` cannot change in a finished run", where=raw, fix=fix)
