"""The pass before Hydra: reads recipe, groups and overrides, and collects every problem with its file and line, not the first alone.

`read_layers("quickstart", ["trainer.lr=1"])` gives a Reading: which options are chosen, what each layer sets, what is wrong with it.
What is wrong is taken out, so that the rest can still be composed and checked, and all problems are reported together.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from tuner.errors import Problem, TuneError
from tuner.registry import kinds
from tuner.schema.documents import RUN, Document, display, find_group, find_option, find_recipe, model_of_run, option_of
from tuner.schema.precedence import a_run_s_base, another_model, take_away, typed_wins
from tuner.schema.reading import Layer, Reading
from tuner.schema.recipe import DEFAULTS, Recipe
from tuner.schema.walk import Walk

QUOTING = "values with spaces, commas, colons or `=` need two pairs of quotes: 'data.system=\"Be brief.\"'"


def read_layers(name: str, overrides: list[str]) -> Reading:
    """Read everything that a command line names. Only an unreadable or unknown main recipe raises; the rest is in `problems`."""
    main = find_recipe(name, where=f"recipe={name}")
    reading = Reading(recipes={"main": main}, choices=dict(DEFAULTS))
    chain = list(_chain("main", reading, seen=[main]))
    values = list(parse_overrides(overrides, reading))
    given = [d.data["output_dir"] for d in chain if "output_dir" in d.data] + [value for _, key, value in values if key == "output_dir"]
    reading.output_dir = str(given[-1]) if given else reading.output_dir
    for document in chain:
        _choose(document, reading)
    switched = set()
    for raw, key, value in values:
        if key in DEFAULTS and isinstance(value, str) and _valid_option(key, value, raw, reading):
            reading.choices[key] = value
            reading.overrides.append(f"{key}={option_of(value)}")
            switched.add(key)
    for group, option in reading.choices.items():
        _add_group(group, option, reading)
    walk = Walk(variants=reading.variants, problems=reading.problems, notes=reading.notes, switched=switched, lacking=reading.lacking)
    for document in chain:
        data = {k: v for k, v in document.data.items() if k != "defaults"}
        clean = walk.mapping(data, Recipe, "", document.where)
        reading.layers.append(Layer(origin=f"recipe {display(document.path)}", document=document, data=clean))
    for group in switched:
        typed_wins(group, reading)
    reading.layers.append(_command_line([v for v in values if not (v[1] in DEFAULTS and isinstance(v[2], str))], walk, reading))
    take_away(reading)
    another_model(reading)
    a_run_s_base(reading)
    return reading


def _chain(name: str, reading: Reading, *, seen: list[Document]) -> Iterator[Document]:
    """The recipe after the recipes it builds on, lowest precedence first; each gets a name in `reading.recipes`."""
    document = reading.recipes[name]
    defaults = document.data.get("defaults", [])
    for index, item in enumerate(defaults if isinstance(defaults, list) else []):
        if isinstance(item, dict) and "recipe" in item:
            where = document.where(f"defaults.{index}")
            try:
                base = find_recipe(str(item["recipe"]), beside=document.path.parent, where=where)
            except TuneError as error:
                reading.problems += error.problems
                continue
            if base in seen:
                path = " -> ".join(display(d.path) for d in [*seen, base])
                reading.problems.append(Problem(what=f"recipes build on each other in a circle: {path}", where=where, fix="remove one"))
                continue
            base_name = f"base{len(reading.recipes)}"
            reading.recipes[base_name] = base
            reading.bases.setdefault(name, []).append(base_name)
            yield from _chain(base_name, reading, seen=[*seen, base])
    yield document


def _choose(document: Document, reading: Reading) -> None:
    """Apply a recipe's `defaults:` list to the choices."""
    defaults = document.data.get("defaults", [])
    if not isinstance(defaults, list):
        text = "a list such as `defaults: [model: smollm2-135m, data: tickets]`"
        reading.problems.append(Problem(what="`defaults` is not a list", where=document.where("defaults"), fix=text))
        return
    for index, item in enumerate(defaults):
        where = document.where(f"defaults.{index}")
        if not isinstance(item, dict) or not item:
            if item != "_self_":
                reading.problems.append(
                    Problem(what=f"`{item}` names no section", where=where, fix="write `section: option`, as `model: smollm2-135m`")
                )
            continue
        if len(item) > 1:
            fix = f"write them as separate items: {', '.join(f'`- {group}: {option}`' for group, option in item.items())}"
            reading.problems.append(Problem(what="an item of `defaults` names more than one section", where=where, fix=fix))
        for group, option in item.items():
            if group != "recipe" and _valid_option(str(group), str(option), where, reading):
                reading.choices[group] = str(option)


def _valid_option(group: str, option: str, where: str, reading: Reading) -> bool:
    try:
        if group == "model" and option.startswith(RUN):
            reading.started_from = model_of_run(option, output_dir=reading.output_dir, where=where)
        else:
            find_option(find_group(group, where=where), option, where=where)
    except TuneError as error:
        reading.problems += error.problems
        reading.unsettled.add(group)
        return False
    return True


def _add_group(group: str, option: str, reading: Reading) -> None:
    """Note the variant an option stands for, and the layers of its value file (and of the files that one builds on)."""
    files: list[Document] = []
    if option.startswith(RUN) and reading.started_from:
        data = {group: reading.started_from.data}
        reading.layers.append(Layer(origin=f"group {group}/{option}", document=reading.started_from, data=data))
        return
    while (document := find_option(group, option, where=group)) is not None:
        files.insert(0, document)
        bases = document.data.get("defaults") or [""]
        if not (option := str(bases[0])):
            break
    if kinds(group):
        reading.variants[group] = option
    walk = Walk(variants=reading.variants, problems=reading.problems, notes=reading.notes, switched=set())
    for document in files:
        data = {group: {k: v for k, v in document.data.items() if k != "defaults"}}
        clean = walk.mapping(data, Recipe, "", partial(_where_in_group, document))
        reading.layers.append(Layer(origin=f"group {group}/{document.path.stem}", document=document, data=clean))


def parse_overrides(overrides: list[str], reading: Reading) -> Iterator[tuple[str, str, Any]]:
    """(as typed, dotted key, value) of each override; `section={a: 1}` comes as `section.a`."""
    parser = OverridesParser.create()
    for raw in overrides:
        try:
            parsed = parser.parse_override(raw)
        except HydraException:
            reading.problems.append(Problem(what="cannot be read as key=value", where=raw, fix=QUOTING))
            continue
        key = parsed.key_or_group
        if problem := _not_plain(parsed):
            reading.problems.append(replace(problem, where=raw))
            continue
        value = parsed.value()
        if key in DEFAULTS and isinstance(value, dict):
            yield from ((raw, f"{key}.{inner}", v) for inner, v in value.items())
        elif key in DEFAULTS:
            yield raw, key, str(value)
        else:
            yield raw, key, value


def _not_plain(parsed: Override) -> Problem | None:
    """What of Hydra's grammar has no use here, told with what was probably meant; None for a plain key=value."""
    key = parsed.key_or_group
    if parsed.is_delete():
        return Problem(what="a key cannot be taken away", fix=f"set it to another value, or to nothing: `{key}=null`")
    if parsed.is_add() or parsed.is_force_add():
        return Problem(what="a recipe has every key already: nothing is added", fix=f"write it without `+`: `{key}=…`")
    if parsed.package:
        return Problem(what="a key has no package (`@`)", fix=f"write `{key}=…`; {QUOTING}")
    if parsed.is_sweep_override():
        return Problem(what=f"`{key}` is given several values, which is a sweep", fix=f"run the recipe once for each value; {QUOTING}")
    return None


def _command_line(values: list[tuple[str, str, Any]], walk: Walk, reading: Reading) -> Layer:
    """The layer of overridden values."""
    layer = Layer(origin="command line", document=None, data={})
    walk = replace(walk, switched=set())  # what a file says yields to a switch of variant; a key typed beside the switch is a mistake
    for raw, key, value in values:
        nested: Any = value
        for part in reversed(key.split(".")):
            nested = {part: nested}
        before = len(reading.problems)
        clean = walk.mapping(copy.deepcopy(nested), Recipe, "", partial(_where_typed, raw))
        if len(reading.problems) > before:
            continue
        _merge(layer.data, clean)
        layer.lines[key] = raw
    return layer


def _where_in_group(document: Document, key: str) -> str:
    return document.where(key.partition(".")[2])


def _where_typed(raw: str, key: str) -> str:
    return raw


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
