"""Finds what a name stands for: `kinds("adapter")["lora"]` is a schema class, `load("tuner.tasks.sft")` the code."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import TypeVar

from tuner.errors import ENVIRONMENT, TuneError

T = TypeVar("T")
_KINDS: dict[str, dict[str, type]] = {}


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a kind comes from that we do not ship. `name`: as a person knows it; `identity`: what enters a stage's key.

    `path`: the file, where it is a person's own (`--extensions`), whose sha256 `identity` is then.
    """

    name: str
    identity: str
    path: str = ""


_ORIGINS: dict[str, Origin] = {}  # by the module, or the package, that a class is of


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


def comes_from(package: str, source: Origin) -> None:
    """Notes where the kinds of a package, or of a module of its own, come from."""
    _ORIGINS[package] = source


def forget(module: str) -> None:
    """Takes out the kinds that a module registered, before it is read anew."""
    for found in _KINDS.values():
        for name in [name for name, cls in found.items() if cls.__module__ == module]:
            del found[name]


def origin(cls: type) -> Origin | None:
    """Where a kind comes from; None for those that we ship."""
    return _ORIGINS.get(cls.__module__.partition(".")[0])


def load_extensions() -> list[str]:
    """Imports what other packages register under the entry-point group `tuner.extensions`; returns their names.

    Raises TuneError (code 4) for one that cannot be imported.
    """
    points = entry_points(group="tuner.extensions")
    for point in points:
        from_package = _origin(point)
        try:
            point.load()
        except Exception as error:
            fix = "mend or uninstall it: every command loads what is installed for the group `tuner.extensions`"
            what = f"the extension {from_package.name} cannot be loaded: {type(error).__name__}: {error}"
            raise TuneError(what, point.value, fix, code=ENVIRONMENT) from error
        comes_from(point.module.partition(".")[0], from_package)
    return [point.name for point in points]


def _origin(point: EntryPoint) -> Origin:
    """The distribution of an entry point with its version, both of which enter the keys of stages that use it."""
    name = f"{point.dist.name} {point.dist.version}" if point.dist else point.name
    return Origin(name=name, identity=name)


def load(module: str) -> ModuleType:
    """The one place where a heavy module is imported late: the whole dispatch from a schema class to its code."""
    return importlib.import_module(module)
