"""What can be said about a transform: `describe("min_chars")`, for `tune ls`, `tune explain` and the docs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING

import tuner.schema.transforms  # noqa: F401  (registers them)
from tuner.registry import kinds, origin
from tuner.schema.base import default_of, docs, plain
from tuner.schema.transforms.base import Transform, summary
from tuner.schema.values import BOUNDS, type_name


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One argument; `default` is None where it must be given. `main`: a single value stands for it."""

    name: str
    doc: str
    type: str
    default: Any
    required: bool
    range: str
    main: bool


@dataclass(frozen=True, kw_only=True)
class About:
    """One transform. `held_out`: whether held-out rows get it too; `example`: an item of `data.transforms`.

    `origin`: "tune", or the file or the package that it comes from.
    """

    name: str
    doc: str
    drops: bool
    held_out: bool
    arguments: tuple[Argument, ...]
    example: str
    family: str
    origin: str


def names() -> list[str]:
    """Every transform, of other packages too, in order of the alphabet."""
    return sorted(kinds("transform"))


def describe(name: str) -> About:
    """The transform of this name. KeyError when there is none."""
    cls = kinds("transform")[name]
    assert issubclass(cls, Transform)
    return About(
        name=name,
        doc=summary(cls),
        drops=cls.drops,
        held_out=cls.held_out and not cls.drops,
        arguments=tuple(_argument(cls, spec) for spec in dataclasses.fields(cls)),
        example=cls.example or name,
        origin=source.name if (source := origin(cls)) else "tune",
        family=cls.__module__.rpartition(".")[2],
    )


def _argument(cls: type[Transform], spec: dataclasses.Field[Any]) -> Argument:
    default = default_of(spec)
    return Argument(
        name=spec.name,
        doc=docs(cls).get(spec.name, ""),
        type=type_name(cls, spec),
        default=None if default == MISSING else plain(default),
        required=default == MISSING,
        range=", ".join(f"{BOUNDS[bound][0]} {limit:g}" for bound, limit in spec.metadata["bounds"].items()),
        main=spec.name == cls.main,
    )
