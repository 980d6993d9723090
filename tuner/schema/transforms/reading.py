"""Reads `data.transforms`: `read_step({"min_chars": 20})` gives (MinChars(least=20), []), or (None, what is wrong with it)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, get_type_hints

from omegaconf import MISSING, OmegaConf

import tuner.schema.transforms  # noqa: F401  (registers them)
from tuner.errors import TuneError, nearest
from tuner.registry import kinds
from tuner.schema.base import default_of
from tuner.schema.transforms.base import Transform
from tuner.schema.values import check_value

Fault = tuple[str, str]  # (what is wrong, what to do)
HOW = "write a name, or `name: arguments`, as `- strip_html` or `- min_chars: 20`"
OWN = "see `tune ls transforms`; one of your own comes with `--extensions FILE --trust`"
# What other tools and other spellings call them.
ALSO = {
    "dedup": "drop_duplicates",
    "deduplicate": "drop_duplicates",
    "dedupe": "drop_duplicates",
    "minhash": "drop_near_duplicates",
    "near_duplicates": "drop_near_duplicates",
    "remove_html": "strip_html",
    "remove_urls": "strip_urls",
    "remove_emoji": "strip_emoji",
    "remove_columns": "drop_columns",
    "select_columns": "keep_columns",
    "rename_columns": "rename",
    "rename_column": "rename",
    "normalize_unicode": "normalise_unicode",
    "normalize_whitespace": "normalise_whitespace",
    "normalize_quotes": "normalise_quotes",
    "normalize_dashes": "normalise_dashes",
    "normalize_newlines": "normalise_newlines",
    "pii": "scrub_pii",
    "lower": "lowercase",
    "strip": "trim",
    "select": "filter",
    "where": "filter",
    "limit": "first",
    "head": "first",
    "take": "first",
    "lang": "language",
}


def steps(items: list[Any]) -> list[Transform]:
    """The steps of a recipe. Raises TuneError (code 2) with the first fault: `faults` finds all of them, before."""
    found = []
    for index, item in enumerate(items):
        step, wrong = read_step(item)
        if step is None:
            raise TuneError(wrong[0][0], f"data.transforms, step {index + 1}", wrong[0][1])
        found.append(step)
    return found


def faults(items: list[Any]) -> Iterator[tuple[int, str, str]]:
    """(index of the step, what is wrong, what to do) of every fault."""
    for index, item in enumerate(items):
        yield from ((index, what, fix) for what, fix in read_step(item)[1])


def name_of(item: Any) -> str:
    """The name of the transform that an item stands for; empty where it has none."""
    return str(next(iter(item), "") if isinstance(item, dict) else item)


def shapes_held_out(item: Any) -> bool:
    """Whether held-out rows get a step too."""
    step, _ = read_step(item)
    return step is not None and step.shapes_held_out


def read_step(item: Any) -> tuple[Transform | None, list[Fault]]:
    """One item of `data.transforms` as the step that it stands for, or what is wrong with it."""
    if isinstance(item, str):
        name, given = item, None
    elif isinstance(item, dict) and len(item) == 1:
        ((name, given),) = item.items()
    else:
        several = f": here are {', '.join(map(str, item))}" if isinstance(item, dict) and item else f", not {item!r}"
        return None, [(f"a step of `data.transforms` has one name{several}", HOW)]
    cls = kinds("transform").get(str(name))
    if cls is None:
        guess = nearest(str(name), kinds("transform"), synonyms=ALSO)
        return None, [(f"unknown transform `{name}`", f"did you mean `{guess}`?" if guess else OWN)]
    assert issubclass(cls, Transform)
    return _build(cls, str(name), given)


def _build(cls: type[Transform], name: str, given: Any) -> tuple[Transform | None, list[Fault]]:
    """The step with its arguments, each checked as a recipe's key is."""
    specs = {f.name: f for f in dataclasses.fields(cls)}
    arguments = _arguments(cls, given, specs)
    if isinstance(arguments, str):
        return None, [(f"`{name}` {arguments}", _usage(cls, name))]
    found: list[Fault] = []
    for key, value in arguments.items():
        if key not in specs:
            guess = nearest(str(key), specs)
            wanted = f"did you mean `{guess}`?" if guess else f"it takes {', '.join(specs) or 'none'}"
            found.append((f"`{name}` has no argument `{key}`", wanted))
        elif problem := check_value(cls, specs[key], value, f"transforms.{name}.{key}"):
            found.append((problem.what.replace("transforms.", "", 1), problem.fix.replace(f".{name}.{key}", f".{name}")))
    missing = [key for key, spec in specs.items() if default_of(spec) == MISSING and key not in arguments]
    found += [(f"`{name}` needs `{key}`", _usage(cls, name)) for key in missing]
    if found:
        return None, found
    node = OmegaConf.structured(cls)
    for key, value in arguments.items():
        node[key] = value
    step = OmegaConf.to_object(node)
    assert isinstance(step, Transform)
    found = [(f"`{name}`: {what}", fix) for what, fix in step.problems()]
    return (None if found else step), found


def _arguments(cls: type[Transform], given: Any, specs: dict[str, Any]) -> dict[str, Any] | str:
    """What was written behind a name, as arguments; or what is wrong with it."""
    if given is None:
        return {}
    if isinstance(given, dict):
        return {cls.main: given} if cls.free and set(given) != {cls.main} else given
    if not cls.main:
        return f"takes no single value, and {given!r} stands there" if specs else "takes no arguments"
    is_list = str(get_type_hints(cls)[cls.main]).startswith("list")
    return {cls.main: [given] if is_list and not isinstance(given, list) else given}


def _usage(cls: type[Transform], name: str) -> str:
    return f"as `- {cls.example}`; see `tune explain transforms.{name}`" if cls.example else f"see `tune explain transforms.{name}`"
