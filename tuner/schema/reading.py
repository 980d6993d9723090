"""What was read for a composition: `reading.origin("trainer.learning_rate")` is `recipes/quickstart.yaml:8`, or `command line`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tuner.errors import Problem
from tuner.schema.documents import Document


@dataclass
class Layer:
    """What one source sets, as a nested mapping shaped like the recipe, with the problems taken out."""

    origin: str
    document: Document | None
    data: dict[str, Any]
    lines: dict[str, str] = field(default_factory=dict)


@dataclass
class Reading:
    """All layers in order of precedence, lowest first (the command line is the last); `overrides`: the options it chose; what is wrong.

    `recipes` by a name of ours (`main` is the one asked for), `bases` the names of those that each builds on.
    """

    recipes: dict[str, Document]
    choices: dict[str, str]
    bases: dict[str, list[str]] = field(default_factory=dict)
    variants: dict[str, str] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unsettled: set[str] = field(default_factory=set)
    lacking: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)
    output_dir: str = "outputs"
    started_from: Document | None = None
    """The `model:` section of the run that `model=run:NAME` names."""

    def origin(self, key: str) -> str:
        """Where the value of a dotted key comes from: `default`, a group file, a recipe file with its line, or the command line."""
        for layer in reversed(self.layers):
            if contains(layer.data, key):
                return layer.document.where(strip_group(layer, key)) if layer.document else layer.origin
        return "default"

    def rank(self, key: str) -> int:
        """Which layer sets a key; -1 for a default."""
        return max((i for i, layer in enumerate(self.layers) if contains(layer.data, key)), default=-1)

    def folder(self, key: str) -> Path | None:
        """The folder of the file that sets a key; None for the command line, and for a default."""
        layer = next((la for la in reversed(self.layers) if contains(la.data, key)), None)
        return layer.document.path.parent if layer and layer.document else None

    def where(self, key: str) -> str:
        """The origin as an error names it: the override itself when it stood on the command line; of a section its option."""
        if key in self.choices and (chosen := self._chosen(key)):
            return chosen
        for layer in reversed(self.layers):
            if contains(layer.data, key):
                typed = [line for name, line in layer.lines.items() if f"{key}.".startswith(f"{name}.") or name.startswith(f"{key}.")]
                return typed[-1] if typed else self.origin(key)
        return f"{next(iter(self.recipes.values())).where('')} (default of {key})" if self.recipes else key

    def _chosen(self, group: str) -> str:
        """Where a section's option was chosen; empty where it is the default."""
        if typed := [override for override in self.overrides if override.partition("=")[0] == group]:
            return typed[-1]
        lists = ((document, document.data.get("defaults")) for document in self.recipes.values())
        named = [d for d, items in lists if isinstance(items, list) and any(isinstance(i, dict) and group in i for i in items)]
        return named[0].where("defaults") if named else ""


def contains(data: dict[str, Any], key: str) -> bool:
    """Whether a nested mapping sets the dotted key; a number is an item of a list (`data.transforms.1`)."""
    node: Any = data
    for part in key.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
            continue
        if not isinstance(node, dict) or part not in node:
            return False
        node = node[part]
    return True


def strip_group(layer: Layer, key: str) -> str:
    """A group file's own keys lack the section's name: `model.id` stands as `id` in `conf/model/x.yaml`."""
    return key.partition(".")[2] if layer.origin.startswith("group ") else key
