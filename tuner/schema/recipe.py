"""The whole recipe: one dataclass a section. `Recipe` is what Hydra composes into and what a Plan freezes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import tuner.schema.audio
import tuner.schema.beyond_lora
import tuner.schema.detect
import tuner.schema.diffusion
import tuner.schema.distil
import tuner.schema.passages
import tuner.schema.preferences
import tuner.schema.rewarded
import tuner.schema.segment
import tuner.schema.seq2seq
import tuner.schema.vision  # noqa: F401
from tuner.registry import kinds
from tuner.schema.adapter import Adapter
from tuner.schema.base import Section, opt
from tuner.schema.data import Data
from tuner.schema.debug import Debug
from tuner.schema.eval import Eval
from tuner.schema.hardware import Hardware
from tuner.schema.hub import Hub
from tuner.schema.launcher import Launcher
from tuner.schema.model import Model
from tuner.schema.task import Task
from tuner.schema.tracking import Tracking
from tuner.schema.trainer import Trainer

S = TypeVar("S", bound=Section)

# The option of each group that a recipe gets when it names none.
DEFAULTS = {
    "task": "sft",
    "model": "custom",
    "data": "custom",
    "adapter": "lora",
    "trainer": "default",
    "hardware": "auto",
    "launcher": "local",
    "tracking": "none",
    "eval": "default",
    "hub": "adapter",
    "debug": "none",
}
GROUPS = tuple(DEFAULTS)


@dataclass(kw_only=True)
class Recipe(Section):
    """Everything a run needs to know."""

    name: str | None = opt(None)
    """Folder and repository name of the run; default: the recipe's name."""
    seed: int = opt(0, affects="train", ge=0, lt=2**32)
    """Seed of data order, initialisation and dropout."""
    output_dir: str = opt("outputs")
    """Folder under which run folders are made."""
    task: Task = opt()
    """What is learned."""
    model: Model = opt()
    """Which pretrained model."""
    data: Data = opt()
    """Rows to learn from, rows held out."""
    adapter: Adapter = opt()
    """Which parameters are trained."""
    trainer: Trainer = opt()
    """How long, how fast, how often to look."""
    hardware: Hardware = opt()
    """Where the work is placed."""
    launcher: Launcher = opt()
    """Who starts the worker."""
    tracking: Tracking = opt()
    """Which dashboard follows."""
    eval: Eval = opt()
    """What is measured."""
    hub: Hub = opt()
    """Where the result is published."""
    debug: Debug = opt()
    """A quick look instead of the whole run."""


def hints_of(cls: type) -> dict[str, Any]:
    """The types of a class's fields; evaluated once."""
    return _hints(cls)


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def section_class(group: str, variant: str = "") -> type[Section]:
    """The dataclass of a section, of its variant where it has variants."""
    hint = hints_of(Recipe)[group]
    return kinds(group)[variant] if variant else hint


def nested_class(cls: type, name: str) -> type[Section] | None:
    """The dataclass behind a field that holds one (`model.wheel`), else None."""
    hint = hints_of(cls)[name]
    if get_origin(hint) is dict:
        return None
    return next((t for t in (hint, *get_args(hint)) if isinstance(t, type) and issubclass(t, Section)), None)


def mapped_class(cls: type, name: str) -> type[Section] | None:
    """The dataclass of the values of a field that maps names to sections (`data.mix`), else None."""
    hint = hints_of(cls)[name]
    value = get_args(hint)[1] if get_origin(hint) is dict else None
    return value if isinstance(value, type) and issubclass(value, Section) else None


def from_plain(values: dict[str, Any]) -> Recipe:
    """The Recipe that `plain(recipe)` was made from: what a worker reads out of plan.json."""
    return from_section(Recipe, values)


def from_section(cls: type[S], values: dict[str, Any]) -> S:
    """One section from plain values: `from_section(Model, {"id": "org/name"})`."""
    built: S = _build(cls, values)
    return built


def _build(cls: type, values: dict[str, Any]) -> Any:
    hints = hints_of(cls)
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name == "kind":
            continue
        inner = nested_class(cls, name)
        if (each := mapped_class(cls, name)) is not None:
            built[name] = {key: _build(each, item) for key, item in value.items()}
        elif inner is not None and isinstance(value, dict):
            built[name] = _build(kinds(name).get(value.get("kind", ""), inner), value)
        else:
            built[name] = _enum(hints[name], value)
    return cls(**built)


def _enum(hint: Any, value: Any) -> Any:
    return hint[value] if isinstance(hint, type) and issubclass(hint, Enum) else value
