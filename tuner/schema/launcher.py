"""The `launcher:` section: who starts the worker. `launcher: local` runs it beside you, `launcher: inline` in this process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import Section


@dataclass(kw_only=True)
class Launcher(Section):
    """What every launcher has."""


@kind("launcher", "local")
@dataclass(kw_only=True)
class Local(Launcher):
    """A worker process on this machine."""

    impl: ClassVar[str] = "tuner.launch.local"


@kind("launcher", "inline")
@dataclass(kw_only=True)
class Inline(Launcher):
    """The worker inside the command's own process, for a debugger."""

    impl: ClassVar[str] = "tuner.launch.inline"
