"""What one layer of a recipe takes from those before it, beyond laying value over value."""

from __future__ import annotations

from typing import Any

from tuner.errors import Problem
from tuner.schema.reading import Reading


def take_away(reading: Reading) -> None:
    """`data.mix.chat=null` takes the source `chat` out of a mix that an earlier layer has."""
    for index, layer in enumerate(reading.layers):
        mix = (layer.data.get("data") or {}).get("mix") or {}
        for name in [name for name, source in mix.items() if source is None]:
            earlier = [found for before in reading.layers[:index] if name in (found := (before.data.get("data") or {}).get("mix") or {})]
            for found in (mix, *earlier):
                del found[name]
            if not earlier:
                key = f"data.mix.{name}"
                where = layer.document.where(key) if layer.document else layer.lines[key]
                reading.problems.append(Problem(what=f"there is no source `{name}` to take away", where=where, fix="remove it"))


def typed_wins(group: str, reading: Reading) -> None:
    """What an option that was typed stands for comes before what the recipe's files say of the same keys; told."""
    typed = f"{group}={reading.choices[group]}"
    ours: dict[str, Any] = {}
    for layer in reading.layers:
        if layer.origin.startswith(f"group {group}/"):
            ours |= layer.data.get(group) or {}
    for layer in reading.layers:
        said: dict[str, Any] = (layer.data.get(group) or {}) if layer.origin.startswith("recipe ") else {}
        for key in [key for key in said if key in ours and said[key] != ours[key]]:
            del said[key]
            reading.notes.append(f"`{typed}` sets `{group}.{key}`: what the recipe says of it is left out")
