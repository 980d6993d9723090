"""Finds what a name stands for: `kinds("adapter")["lora"]` is a schema class, `load("tuner.tasks.sft")` the code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")
_KINDS: dict[str, dict[str, type]] = {}


def kind(group: str, name: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: this schema dataclass is the variant `name` of the recipe section `group` (`adapter: lora`)."""

    def register(cls: type[T]) -> type[T]:
        _KINDS.setdefault(group, {})[name] = cls
        cls.group, cls.kind = group, name  # type: ignore[attr-defined]
        return cls

    return register


def kinds(group: str) -> dict[str, type]:
    """Variants of a recipe section by name; empty for a section that has one shape only."""
    return _KINDS.get(group, {})


def load_extensions() -> list[str]:
    """Imports what other packages register under the entry-point group `tuner.extensions`; returns their names."""
    points = entry_points(group="tuner.extensions")
    for point in points:
        point.load()
    return [point.name for point in points]


def load(module: str) -> ModuleType:
    """The one place where a heavy module is imported late: the whole dispatch from a schema class to its code."""
    return importlib.import_module(module)
