"""A recipe in the making and what is said of each line: `draft.put("lora_r", 8, "adapter.r", 8)`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tuner.errors import TuneError
from tuner.registry import kinds


class State(StrEnum):
    """What became of a line."""

    mapped = "mapped"
    unmapped = "not mapped"
    ignored = "ignored there"
    implied = "their default"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of theirs: key, value, what it is here, and a remark."""

    state: State
    key: str
    value: Any
    ours: str = ""
    note: str = ""


@dataclass
class Draft:
    """`values` by our dotted keys, `options` by section, and what is said."""

    config: dict[str, Any]
    peer: str
    devices: int
    values: dict[str, Any] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    implying: bool = False
    """Whether what is put now was not written, but is what the peer takes when nothing is."""

    def put(self, key: str, value: Any, ours: str, mine: Any, *, note: str = "") -> None:
        """Map a line onto a key of ours."""
        self.values[ours] = mine
        self._say(key, value, f"{ours}: {shown(mine)}", note)

    def choose(self, key: str, value: Any, group: str, option: str) -> None:
        """Map a line onto an option. Raises TuneError (code 2) for a task that is not there."""
        if group == "task" and option not in kinds("task"):
            raise TuneError(f"there is no task `{option}` here, which `{key}: {shown(value)}` asks for", key, "tasks: `tune ls task`")
        self.options[group] = option
        self._say(key, value, f"- {group}: {option}", "")

    def same(self, key: str, value: Any, note: str) -> None:
        """A line that says what is so here anyway."""
        self._say(key, value, "nothing to set", note)

    def leave(self, key: str, value: Any, note: str) -> None:
        """A line that has no counterpart."""
        self.lines.append(Line(state=State.unmapped, key=key, value=value, note=note))

    def _say(self, key: str, value: Any, ours: str, note: str) -> None:
        state = State.implied if self.implying else State.mapped
        self.lines.append(Line(state=state, key=key, value=value, ours=ours, note=note))


Rule = str | Callable[[Draft, str, Any], None]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A tool. `rules`: what its keys are here; `left`: keys without a counterpart, with the reason; `marks`: keys that only it has."""

    name: str
    rules: dict[str, Rule]
    left: dict[str, str]
    known: frozenset[str]
    marks: frozenset[str]
    implied: dict[str, Any]
    unknown: str
    """What it does with a key that it does not know."""

    @property
    def keys(self) -> set[str]:
        """Every key that it knows."""
        return {*self.rules, *self.left, *self.known}


def shown(value: Any) -> str:
    """A value as YAML has it, shortened."""
    text = {True: "true", False: "false", None: "null"}.get(value) if value is None or isinstance(value, bool) else str(value)
    text = str(text)
    return text if len(text) <= 60 else text[:57] + "…"


def to(ours: str, convert: Callable[[Any], Any]) -> Rule:
    """A rule: our key, its value converted."""
    return lambda draft, key, value: draft.put(key, value, ours, convert(value))


def when(ours: str, mine: Any) -> Rule:
    """A rule: our key has this value where theirs is true; else nothing is to be set."""
    return lambda draft, key, value: draft.put(key, value, ours, mine) if value else draft.same(key, value, "off here as well")


def is_file(path: str) -> bool:
    """Whether a data set's name is a path: one that is there, or looks like one; else it is a Hub id."""
    return (
        Path(path).expanduser().exists()
        or path.startswith((".", "/", "~", "s3://", "gs://", "http"))
        or bool(Path(path).suffix in (".json", ".jsonl", ".csv", ".parquet", ".txt", ".tsv", ".arrow"))
    )
