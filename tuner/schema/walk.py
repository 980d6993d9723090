"""Walks a nested mapping against the schema and keeps what is right: `Walk(...).mapping({"trainer": {"lr": 1}}, Recipe, "", where)`."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_type_hints

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tuner.errors import Problem, nearest
from tuner.registry import kinds
from tuner.schema.base import Section
from tuner.schema.documents import OWN, list_options
from tuner.schema.recipe import GROUPS, Recipe, nested_class, section_class
from tuner.schema.synonyms import SYNONYMS

# All that a value may refer to. What is no plain reference is refused, not searched for a resolver: `${oc.${name}:HF_TOKEN}` is one too.
REFERENCE = re.compile(r"\$\{[\w.\[\]]+\}")
BOUNDS: dict[str, tuple[str, Callable[[float, float], bool]]] = {
    "ge": ("at least", lambda v, b: v >= b),
    "gt": ("more than", lambda v, b: v > b),
    "le": ("at most", lambda v, b: v <= b),
    "lt": ("less than", lambda v, b: v < b),
}


@dataclass(kw_only=True)
class Walk:
    """One pass over the layers. `switched`: sections whose variant the command line chose over the recipe's."""

    variants: dict[str, str]
    problems: list[Problem]
    notes: list[str]
    switched: set[str]

    def mapping(self, data: dict[str, Any], cls: type[Section], prefix: str, where: Callable[[str], str]) -> dict[str, Any]:
        """The entries of `data` that `cls` has and that hold valid values; every other one becomes a problem."""
        names = {f.name: f for f in dataclasses.fields(cls)}
        clean: dict[str, Any] = {}
        for raw, value in data.items():
            key = str(raw)
            dotted = f"{prefix}{key}"
            if key not in names:
                self._unknown(dotted, cls, where(dotted))
                continue
            inner = self._class_of(cls, key)
            if inner is None:
                problem = check_value(cls, names[key], value, dotted)
                if problem is None:
                    clean[key] = value
                else:
                    self.problems.append(dataclasses.replace(problem, where=where(dotted)))
            elif isinstance(value, dict):
                clean[key] = self.mapping(value, inner, f"{dotted}.", where)
            elif value is not None:
                fix = _as_section(key, value) if cls is Recipe else f"write `{key}: {{…}}`"
                self.problems.append(Problem(what=f"`{dotted}` is a section, not a value", where=where(dotted), fix=fix))
            elif cls is not Recipe:  # a section of the recipe that stands empty sets nothing
                clean[key] = None
        return clean

    def _class_of(self, cls: type[Section], key: str) -> type[Section] | None:
        if cls is Recipe and key in GROUPS:
            return section_class(key, self.variants.get(key, ""))
        return nested_class(cls, key)

    def _unknown(self, dotted: str, cls: type[Section], where: str) -> None:
        group, _, key = dotted.rpartition(".")
        owners = [name for name, variant in kinds(group).items() if key in _field_names(variant)]
        if owners and group in self.switched:
            self.notes.append(f"dropped {dotted} ({where}): only {group}={'|'.join(owners)} has it")
            return
        if owners:
            fix = f"it belongs to {group}={'|'.join(owners)}; here it is {group}={self.variants[group]}"
            self.problems.append(Problem(what=f"`{dotted}` does not exist for {group}={self.variants[group]}", where=where, fix=fix))
            return
        self.problems.append(Problem(what=f"unknown key `{dotted}`", where=where, fix=suggest(dotted, cls)))


def _as_section(group: str, value: Any) -> str:
    """How a section that was written as `data: train.jsonl` was probably meant."""
    options, own = list_options(group), OWN.get(group, "").rpartition(".")[2]
    if isinstance(value, str):
        if value in options:
            return f"`- {group}: {value}` in the recipe's `defaults` chooses an option"
        guess = nearest(value, options)
        if own and ("/" in value or "." in value or not guess):
            return f"write `{group}: {{{own}: {value}}}`"
        if guess:
            return f"did you mean `- {group}: {guess}` in the recipe's `defaults`?"
    return f"write its keys below it, see `tune explain {group}`; options for the recipe's `defaults`: {', '.join(options)}"


def _field_names(cls: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(cls))


def all_keys(variants: dict[str, str] | None = None) -> dict[str, tuple[type[Section], dataclasses.Field[Any]]]:
    """Every leaf key of the recipe, dotted, with its class and field; of all variants, or of the given ones."""
    found: dict[str, tuple[type[Section], dataclasses.Field[Any]]] = {}

    def visit(cls: type[Section], prefix: str) -> None:
        for spec in dataclasses.fields(cls):
            inner = nested_class(cls, spec.name)
            if inner is None:
                found.setdefault(f"{prefix}{spec.name}", (cls, spec))
            elif cls is Recipe and kinds(spec.name):
                names = list(kinds(spec.name)) if variants is None else [variants[spec.name]]
                for name in names:
                    visit(kinds(spec.name)[name], f"{spec.name}.")
            else:
                visit(inner, f"{prefix}{spec.name}.")

    visit(Recipe, "")
    return found


def suggest(dotted: str, cls: type[Section]) -> str:
    """What a mistyped key probably meant: a synonym, a neighbour in its section, the same name elsewhere, a near name elsewhere."""
    section, _, key = dotted.rpartition(".")
    keys = all_keys()
    meant = SYNONYMS.get(key.lower().replace("-", "_"))
    if meant and (meant in GROUPS or meant in keys):
        return f"did you mean `{meant}`?"
    if near := nearest(key, _field_names(cls)):
        return f"did you mean `{section + '.' if section else ''}{near}`?"
    by_name = {k.rpartition(".")[2]: k for k in reversed(keys)}
    if near := nearest(key, by_name):
        return f"did you mean `{by_name[near]}`?"
    return f"keys of {section or 'a recipe'}: {', '.join(_field_names(cls))}"


def check_value(cls: type[Section], spec: dataclasses.Field[Any], value: Any, dotted: str) -> Problem | None:
    """None when the field takes the value, else the problem (without its place)."""
    for text in strings_in(value):
        if "${" in REFERENCE.sub("", text):
            return resolver_problem(text, dotted)
    if isinstance(value, str) and REFERENCE.search(value):
        return None
    hint = get_type_hints(cls)[spec.name]
    if spec.metadata["accepts"] and not _accepted(spec.metadata["accepts"], value):
        return Problem(what=f"`{dotted}` takes {spec.metadata['accepts']}, not {value!r}", fix=_example(hint, dotted, value))
    node = OmegaConf.structured(cls)
    try:
        node[spec.name] = value
        converted = node[spec.name]
    except OmegaConfBaseException:
        return Problem(what=f"`{dotted}` takes {type_name(cls, spec)}, not {value!r}", fix=_example(hint, dotted, value))
    return check_range(spec, converted, dotted)


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
    return isinstance(value, str) or ("list[str]" in accepts and isinstance(value, list) and all(isinstance(v, str) for v in value))


def type_name(cls: type[Section], spec: dataclasses.Field[Any]) -> str:
    """The field's type as a person reads it: `float`, `assistant | all`, `int | null`."""
    hint = get_type_hints(cls)[spec.name]
    if spec.metadata["accepts"]:
        return str(spec.metadata["accepts"])
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return " | ".join(hint.__members__)
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
