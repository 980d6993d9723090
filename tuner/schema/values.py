"""What a single value of a recipe may be: `check_value(Trainer, field, "fast", "trainer.learning_rate")` -> a Problem, or None."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.errors import Problem, nearest
from tuner.schema.base import Section
from tuner.schema.recipe import hints_of, mapped_class

# All that a value may refer to. What is no plain reference is refused, not searched for a resolver: `${oc.${name}:HF_TOKEN}` is one too.
REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}")
BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("at least", lambda v, b: v >= b),
    "gt": ("more than", lambda v, b: v > b),
    "le": ("at most", lambda v, b: v <= b),
    "lt": ("less than", lambda v, b: v < b),
}

FEW = 6  # choices that are named in the first line of an error; more stand in its fix alone


def check_value(cls: type[Section], spec: dataclasses.Field[Any], value: Any, dotted: str) -> Problem | None:
    """None when the field takes the value, else the problem (without its place)."""
    for text in strings_in(value):
        if "${" in REFERENCE.sub("", text):
            return resolver_problem(text, dotted)
    if isinstance(value, str) and REFERENCE.search(value):
        return None
    hint = hints_of(cls)[spec.name]
    if spec.metadata["accepts"] and not _accepted(spec.metadata["accepts"], value):
        return Problem(what=f"`{dotted}` takes {spec.metadata['accepts']}, not {value!r}", fix=_example(hint, dotted, value))
    node = _node(cast(Any, cls))
    try:
        node[spec.name] = value
        converted = node[spec.name]
    except OmegaConfBaseException:
        takes = f"takes {type_name(cls, spec)}, not" if len(getattr(hint, "__members__", ())) <= FEW else "cannot be"
        return Problem(what=f"`{dotted}` {takes} {value!r}", fix=_example(hint, dotted, value))
    return check_range(spec, converted, dotted)


@cache
def _node(cls: Any) -> Any:
    """A section as OmegaConf holds it, made once: each value that is checked is put in the place of the last one."""
    return OmegaConf.structured(cls)


def resolver_problem(text: str, dotted: str) -> Problem:
    """A recipe may come from a stranger: nothing in it can read the environment."""
    fix = "a recipe is data: it may refer to its own keys (`${trainer.learning_rate}`) and to nothing else"
    return Problem(what=f"`{dotted}` uses a resolver: {text}", fix=fix)


def check_range(spec: dataclasses.Field[Any], value: Any, dotted: str) -> Problem | None:
    """None when the value lies within the field's bounds, else the problem (without its place)."""
    if isinstance(value, float) and not math.isfinite(value):
        return Problem(what=f"`{dotted}` must be a finite number, not {value}", fix=f"see `tune explain {dotted}`")
    for bound, limit in spec.metadata["bounds"].items():
        words, holds = BOUNDS[bound]
        if value is not None and not holds(value, limit):
            return Problem(what=f"`{dotted}` must be {words} {limit:g}, not {value:g}", fix=f"see `tune explain {dotted}`")
    return None


def strings_in(value: Any) -> Iterator[str]:
    """Every text in a value, however deep it stands."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in [*value, *value.values()] if isinstance(value, dict) else value:
            yield from strings_in(inner)


def _accepted(accepts: str, value: Any) -> bool:
    if value is None:
        return "null" in accepts
    return isinstance(value, str) or ("list[str]" in accepts and isinstance(value, list) and all(isinstance(v, str) for v in value))


def type_name(cls: type[Section], spec: dataclasses.Field[Any]) -> str:
    """The field's type as a person reads it: `float`, `assistant | all`, `int | null`."""
    hint = hints_of(cls)[spec.name]
    if spec.metadata["accepts"]:
        return str(spec.metadata["accepts"])
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return " | ".join(hint.__members__)
    if each := mapped_class(cls, spec.name):
        return f"{{name: {{{', '.join(f.name for f in dataclasses.fields(each))}}}}}"
    return (
        hint.__name__
        if isinstance(hint, type) and not hasattr(hint, "__args__")
        else str(hint).replace("None", "null").replace("typing.", "")
    )


def _example(hint: Any, dotted: str, value: Any) -> str:
    """How a right value looks, the nearest one first where there is a choice."""
    examples = {
        float: "write a number, as 0.5 or 1e-4",
        int: "write it as 16",
        bool: "true or false",
        str: "write it as text",
        list[str]: "write it as [one, two]",
    }
    members = getattr(hint, "__members__", None)
    if not members:
        return examples.get(hint, f"see `tune explain {dotted}`")
    guess = nearest(str(value), members)
    return (f"did you mean `{guess}`? " if guess else "") + f"one of {', '.join(members)}"
