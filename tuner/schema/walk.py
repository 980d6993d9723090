"""Walks a nested mapping against the schema and keeps what is right: `Walk(...).mapping({"trainer": {"lr": 1}}, Recipe, "", where)`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tuner.errors import Problem, nearest
from tuner.registry import kinds
from tuner.schema.base import Section
from tuner.schema.documents import OWN, list_options
from tuner.schema.recipe import GROUPS, Recipe, mapped_class, nested_class, section_class
from tuner.schema.synonyms import SYNONYMS
from tuner.schema.values import check_value

NAME = re.compile(r"[A-Za-z0-9_][\w-]*", re.ASCII)


@dataclass(kw_only=True)
class Walk:
    """One pass over the layers. `switched`: sections whose variant the command line chose over the recipe's."""

    variants: dict[str, str]
    problems: list[Problem]
    notes: list[str]
    switched: set[str]
    lacking: set[str] = field(default_factory=set)
    """Sections of which so much was left out that what is found missing there would be no fault of theirs."""

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
            if (each := mapped_class(cls, key)) is not None:
                clean[key] = self._named(value, each, dotted, where)
            elif inner is None:
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

    def _named(self, value: Any, cls: type[Section], dotted: str, where: Callable[[str], str]) -> dict[str, Any]:
        """Sections by names that the person chose."""
        clean: dict[str, Any] = {}
        if not isinstance(value, dict):
            fix = f"`{dotted}: {{one: {{{dataclasses.fields(cls)[0].name}: …}}, other: {{…}}}}`"
            self.problems.append(Problem(what=f"`{dotted}` takes sections by name, not {value!r}", where=where(dotted), fix=fix))
            self.lacking.add(dotted.partition(".")[0])
            return clean
        for name, inner in value.items():
            key = f"{dotted}.{name}"
            if not NAME.fullmatch(str(name)):
                fix = "a name is made of letters, digits, `-` and `_`"
                self.problems.append(Problem(what=f"`{name}` cannot be a name in `{dotted}`", where=where(key), fix=fix))
            elif inner is None:  # taken away, by `layers._take_away`
                clean[str(name)] = None
            elif isinstance(inner, dict):
                clean[str(name)] = self.mapping(inner, cls, f"{key}.", where)
            else:
                fix = f"write `{dotted}: {{{name}: {{{dataclasses.fields(cls)[0].name}: …}}}}`"
                self.problems.append(Problem(what=f"`{key}` is a section, not a value", where=where(key), fix=fix))
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
