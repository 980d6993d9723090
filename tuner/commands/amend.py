"""Changes to a finished run's recipe: `amend(plan, ["hub.repo_id=me/tickets"], section="hub")` -> the recipe with them, checked as ever."""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf

from tuner.checks import RULES
from tuner.errors import Problem, TuneError
from tuner.plan import Plan
from tuner.schema.layers import parse_overrides
from tuner.schema.reading import Reading
from tuner.schema.recipe import Recipe
from tuner.schema.walk import Walk


def amend(plan: Plan, overrides: list[str], *, section: str) -> Recipe:
    """The plan's recipe with overrides of one section. Raises TuneError (code 2) with every problem, keys of other sections included."""
    recipe = plan.load_recipe()
    reading = Reading(recipes={}, choices=plan.choices)
    values: dict[str, Any] = {}
    given: dict[str, str] = {}
    for raw, key, value in parse_overrides(overrides, reading):
        name, _, inner = key.partition(".")
        if name != section or not inner:
            fix = f"this verb takes keys of `{section}` alone; anything else is a new run: `tune recipe={plan.recipe_name} {raw}`"
            reading.problems.append(Problem(what=f"`{key}` cannot change in a finished run", where=raw, fix=fix))
            continue
        values[inner], given[key] = value, raw
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
