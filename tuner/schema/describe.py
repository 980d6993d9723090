"""What can be said about keys and options without composing: `describe("trainer.learning_rate")`, for explain, ls and schema."""

from __future__ import annotations

import dataclasses
import shlex
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

from tuner.registry import kinds
from tuner.schema.base import STAGES, Section, default_of, docs, plain, stages_affected
from tuner.schema.documents import list_options, read
from tuner.schema.recipe import Recipe, hints_of, mapped_class, nested_class
from tuner.schema.values import BOUNDS, type_name
from tuner.schema.walk import all_keys

CONSEQUENCES = {
    "prepare": "prepares the data again",
    "baseline": "measures the base model again",
    "train": "retrains",
    "evaluate": "evaluates",
    "publish": "publishes",
}


@dataclass(frozen=True, kw_only=True)
class Key:
    """One recipe key. `options`: the options of its section that have it, empty when all do; `default` is None where it must be set."""

    name: str
    doc: str
    type: str
    default: Any
    required: bool
    bounds: dict[str, float]
    affects: tuple[str, ...]
    options: tuple[str, ...]
    example: str

    @property
    def range(self) -> str:
        """The bounds in words; empty when there are none."""
        return ", ".join(f"{BOUNDS[bound][0]} {limit:g}" for bound, limit in self.bounds.items())

    @property
    def consequence(self) -> str:
        """What changing it makes `tune` do again."""
        done = [text for stage, text in CONSEQUENCES.items() if stage in self.affects]
        return ", ".join(done) or "changes no result: nothing is done again"


def describe(name: str) -> Key:
    """The key with this dotted name, as the first variant that has it means it. KeyError when there is none."""
    return senses(name)[0]


def senses(name: str) -> list[Key]:
    """The key as each variant of its section means it, those that mean the same together: `task.beta` of `dpo`, of `distil` …"""
    cls, spec = all_keys()[name]
    group, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    owners = {variant: kind for variant, kind in kinds(group).items() if first in {f.name for f in dataclasses.fields(kind)}}
    found: dict[tuple[str, ...], tuple[Any, Any, list[str]]] = {}
    for variant, kind in owners.items():
        mine = (kind, next(f for f in dataclasses.fields(kind) if f.name == first)) if rest == first else (cls, spec)
        meaning = (docs(mine[0]).get(mine[1].name, ""), type_name(*mine), repr(default_of(mine[1])), repr(mine[1].metadata["bounds"]))
        found.setdefault(meaning, (*mine, []))[2].append(variant)
    return [_key(name, owner, own, variants) for owner, own, variants in found.values() or [(cls, spec, [])]]


def _key(name: str, cls: type[Section], spec: dataclasses.Field[Any], owners: list[str]) -> Key:
    group = name.partition(".")[0]
    options = tuple(option for option in list_options(group) if variant_of(group, option) in owners) if owners else ()
    default = default_of(spec)
    affected = stages_affected(spec)
    return Key(
        name=name,
        doc=docs(cls).get(spec.name, ""),
        type=type_name(cls, spec),
        default=None if default == MISSING else plain(default),
        required=default == MISSING,
        bounds=dict(spec.metadata["bounds"]),
        affects=tuple(s for s in STAGES if s in affected),
        options=() if len(options) == len(list_options(group)) else options,
        example=f"{name}={_example(cls, spec, default)}",
    )


def keys_below(section: str) -> list[Key]:
    """The keys of a section, or of a nested one (`model.wheel`), once for each of their meanings."""
    return [key for name in all_keys() if name.startswith(f"{section}.") for key in senses(name)]


def sections() -> dict[str, str]:
    """Dotted name of each section, nested ones included, with what it is for."""
    found: dict[str, str] = {}

    def visit(cls: type[Section], prefix: str) -> None:
        for spec in dataclasses.fields(cls):
            if inner := nested_class(cls, spec.name):
                found[f"{prefix}{spec.name}"] = docs(cls)[spec.name]
                visit(inner, f"{prefix}{spec.name}.")

    visit(Recipe, "")
    return found


def describe_option(group: str, option: str) -> str:
    """One line about an option: the comment of its value file, or the docstring of its variant."""
    path = list_options(group)[option]
    if path is not None:
        return read(path).summary
    return " ".join((kinds(group)[option].__doc__ or "").split())


def variant_of(group: str, option: str) -> str:
    """The variant that an option stands for (`dora` is a `lora` with other values)."""
    path = list_options(group)[option]
    return option if path is None else variant_of(group, str(read(path).data["defaults"][0]))


def _example(cls: type[Section], spec: dataclasses.Field[Any], default: Any) -> str:
    """A value as it is typed after `key=`, quoted for Hydra's grammar (inner pair) and for the shell (outer pair)."""
    hint = str(hints_of(cls)[spec.name])
    if "list" in spec.metadata["accepts"]:
        return shlex.quote("[q_proj,v_proj]")
    if mapped_class(cls, spec.name):
        return shlex.quote("{one: {path: a.jsonl}, other: {path: b.jsonl}}")
    if hint.startswith("dict"):
        return shlex.quote("{down_proj: 8}" if "int" in hint else "{exact_match: 0.5}" if "float" in hint else "{name: value}")
    if hint == "list[typing.Any]":
        return shlex.quote("[strip_html,trim]")
    if "list[int]" in hint:
        return shlex.quote("[0,1]")
    if isinstance(default, list):
        return shlex.quote("[" + ",".join(default or ["one", "two"]) + "]")
    if isinstance(default, bool):
        return str(not default).lower()
    if default not in (None, MISSING):
        return shlex.quote(f"{default:g}" if isinstance(default, float) else str(plain(default)))
    if "float" in hint:
        return "0.5" if "lt" in spec.metadata["bounds"] else "1.5"
    return "100" if "int" in hint else shlex.quote('"some text"')
