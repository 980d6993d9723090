"""How a recipe field is declared: `r: int = opt(16, affects="train", ge=1)` with its documentation as a docstring below it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from itertools import pairwise
from typing import Any, ClassVar

from omegaconf import MISSING

# Each stage with the stages whose keys enter its own.
STAGES: dict[str, tuple[str, ...]] = {
    "prepare": (),
    "baseline": (),
    "train": ("prepare",),
    "evaluate": ("train", "baseline"),
    "publish": ("train", "evaluate"),
}


@dataclass(kw_only=True)
class Section:
    """A part of the recipe. A section with variants has one subclass a variant, registered with `@kind(group, name)`.

    `impl` names the module that implements a variant; `variant_affects` the stages whose key the choice of variant enters.
    """

    group: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    impl: ClassVar[str] = ""
    variant_affects: ClassVar[str] = ""
    field_docs: ClassVar[dict[str, str] | None] = None
    """What its own fields mean, where no source says it: a class that was made of a function (tuner/extend.py)."""


def opt(
    default: Any = MISSING,
    *,
    affects: str = "",
    content: str = "",
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    accepts: str = "",
    factory: Any = NO_DEFAULT,
) -> Any:
    """A recipe field. `affects` names the stages whose key it enters (with all that follow them); none: it changes no result.

    `content` names the stages whose key it enters by what it stands for, not as written (`keys._world`).
    `ge gt le lt` are its range; `accepts` words the type where OmegaConf has no such type (`str | list[str]`).
    """
    stages, by_content = frozenset(affects.split()), frozenset(content.split())
    assert stages | by_content <= set(STAGES), f"unknown stage in {affects!r} or {content!r}"
    bounds = {k: v for k, v in {"ge": ge, "gt": gt, "le": le, "lt": lt}.items() if v is not None}
    metadata = {"affects": stages, "content": by_content, "bounds": bounds, "accepts": accepts}
    if factory is not NO_DEFAULT:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def default_of(spec: dataclasses.Field[Any]) -> Any:
    """The field's default value; MISSING ("???") where the recipe must set it."""
    return spec.default_factory() if spec.default_factory is not NO_DEFAULT else spec.default


def plain(value: Any) -> Any:
    """`value` as JSON holds it: enums by name, dataclasses as mappings (with their `kind` where the section has variants)."""
    if isinstance(value, Enum):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = {"kind": value.kind} if isinstance(value, Section) and value.kind else {}
        return kind | {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k if isinstance(k, str) else json.dumps(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value


def flat(section: Section, prefix: str = "") -> dict[str, Any]:
    """The section's values by dotted key, as JSON holds them: `{"trainer.learning_rate": 0.002, …}`."""
    values: dict[str, Any] = {}
    for spec in dataclasses.fields(section):
        value = getattr(section, spec.name)
        values |= flat(value, f"{prefix}{spec.name}.") if isinstance(value, Section) else {f"{prefix}{spec.name}": _said(value)}
    return values


def said(section: Section) -> dict[str, Any]:
    """The values that differ from their default, as JSON holds them."""
    return {f.name: plain(value) for f in dataclasses.fields(section) if (value := getattr(section, f.name)) != default_of(f)}


def _said(value: Any) -> Any:
    """A value as JSON holds it; of sections by name (`data.mix`) only what was said."""
    if isinstance(value, dict) and value and all(isinstance(v, Section) for v in value.values()):
        return {name: said(section) for name, section in value.items()}
    return plain(value)


def stages_affected(spec: dataclasses.Field[Any]) -> frozenset[str]:
    """Every stage whose key changes with the field, those that follow included."""
    found = set(spec.metadata["affects"] | spec.metadata["content"])
    for stage, needs in STAGES.items():  # in order, so that one pass reaches all that follow
        if found.intersection(needs):
            found.add(stage)
    return frozenset(found)


def docs(cls: type) -> dict[str, str]:
    """Field name -> its docstring, for a schema class and its bases, read from the source."""
    return _docs(cls)


@cache
def _docs(cls: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or not dataclasses.is_dataclass(base):
            continue
        if base.__dict__.get("field_docs") is not None:
            found |= base.__dict__["field_docs"]
            continue
        body = next(n for n in ast.parse(inspect.getsource(base)).body if isinstance(n, ast.ClassDef)).body
        for node, after in pairwise(body):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(after, ast.Expr):
                text = ast.literal_eval(after.value)
                found[node.target.id] = " ".join(text.split())
    return found
