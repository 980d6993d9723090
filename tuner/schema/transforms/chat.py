"""Transforms of conversations, in every column of messages or in `fields`: `data: {transforms: [merge_same_role, {max_turns: 8}]}`."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.base import Transform


@dataclass(kw_only=True)
class Chat(Transform):
    """A step for messages, as `role`/`content` or `from`/`value`."""

    impl = "tuner.data.transforms.chat"
    fields: list[str] = opt(factory=list)
    """Columns of messages; none: all, and a `prompt` belongs to the `completion`, or to `chosen` and `rejected`, that follow it."""


@kind("transform", "min_turns")
@dataclass(kw_only=True)
class MinTurns(Chat):
    """Drops conversations with fewer messages (system messages not counted)."""

    main, drops = "least", True
    example = "min_turns: 2"
    least: int = opt(ge=1)
    """Messages."""


@kind("transform", "max_turns")
@dataclass(kw_only=True)
class MaxTurns(Chat):
    """Drops conversations with more messages (system messages not counted)."""

    main, drops = "most", True
    example = "max_turns: 20"
    most: int = opt(ge=1)
    """Messages."""


@kind("transform", "truncate_turns")
@dataclass(kw_only=True)
class TruncateTurns(Chat):
    """Keeps the first `most` messages and the system message, in columns of whole conversations; held-out rows are left whole."""

    main, held_out = "most", False
    example = "truncate_turns: 8"
    most: int = opt(ge=1)
    """Messages that stay."""


@kind("transform", "drop_last_user_turn")
@dataclass(kw_only=True)
class DropLastUserTurn(Chat):
    """Takes out what the user says at the end, which nobody answers."""

    example = "drop_last_user_turn"


@kind("transform", "require_assistant_last")
@dataclass(kw_only=True)
class RequireAssistantLast(Chat):
    """Drops conversations that do not end with the assistant."""

    drops = True
    example = "require_assistant_last"


@kind("transform", "require_alternation")
@dataclass(kw_only=True)
class RequireAlternation(Chat):
    """Drops conversations in which user and assistant do not take turns, the user first."""

    drops = True
    example = "require_alternation"


@kind("transform", "merge_same_role")
@dataclass(kw_only=True)
class MergeSameRole(Chat):
    """Makes one message of several by the same speaker (texts only, without tool calls)."""

    main = "by"
    example = 'merge_same_role: "\\n"'
    by: str = opt("\n\n")
    """What stands between them."""


@kind("transform", "drop_system")
@dataclass(kw_only=True)
class DropSystem(Chat):
    """Takes system messages out."""

    example = "drop_system"


@kind("transform", "drop_empty_turns")
@dataclass(kw_only=True)
class DropEmptyTurns(Chat):
    """Takes messages without text and without tool calls out."""

    example = "drop_empty_turns"
