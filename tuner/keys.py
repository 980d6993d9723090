"""Content keys of stages: `content_key(recipe, "train", ["0ec78e0cf105"], content)` -> "f30b3c365341".

    key = sha256(stage, its version, keys of the stages it needs, the recipe values that affect it, the content of local files)

Only values that differ from the schema's default are hashed, so a release that adds a field leaves old keys as they were; a release that
changes a default or what a stage means raises that stage's number in VERSIONS.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from tuner.registry import kinds, origin
from tuner.schema.base import Section, default_of, plain
from tuner.schema.data import Contamination
from tuner.schema.recipe import Recipe
from tuner.schema.transforms.reading import name_of, shapes_held_out

VERSIONS = {"prepare": 1, "baseline": 1, "train": 1, "evaluate": 1, "publish": 1}


def content_key(recipe: Recipe, stage: str, inputs: list[str], content: dict[str, list[str]]) -> str:
    """12 hexadecimal digits. `inputs`: the keys of the stages that this one needs; `content`: hashes of local files by recipe key."""
    values = key_values(recipe, stage) | _world(recipe, stage, content)
    return hashlib.sha256(json.dumps([stage, VERSIONS[stage], inputs, values], sort_keys=True).encode()).hexdigest()[:12]


def key_values(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The recipe values that enter a stage's key: those that affect it and differ from their default, and the variants."""
    found: dict[str, Any] = {}

    def visit(section: Section, prefix: str) -> None:
        for spec in dataclasses.fields(section):
            value = getattr(section, spec.name)
            if isinstance(value, Section):
                if value.kind and stage in value.variant_affects.split():
                    source = origin(type(value))
                    found[f"{prefix}{spec.name}"] = [value.kind, source.identity] if source else value.kind
                visit(value, f"{prefix}{spec.name}.")
            elif stage in spec.metadata["affects"] and value != default_of(spec):
                found[f"{prefix}{spec.name}"] = plain(value)

    visit(recipe, "")
    return found


def _world(recipe: Recipe, stage: str, content: dict[str, list[str]]) -> dict[str, Any]:
    """What a key sees of the world: content of local files, and how the held-out rows come about."""
    data = recipe.data
    source = {k: getattr(data, k) for k in ("id", "config", "revision", "split", "limit")}
    source |= {"files": content.get("data.path") or content.get("data.url")}
    if content.get("data.eval_path"):
        held_out: dict[str, Any] = {"files": content["data.eval_path"]}
    elif data.eval_split:
        held_out = {"id": data.id, "config": data.config, "revision": data.revision, "split": data.eval_split}
    else:
        held_out = {"fraction": data.eval_fraction, "seed": recipe.seed, **source}
        held_out |= {k: v for k in ("eval_group", "eval_stratify") if (v := getattr(data, k))}
    world: dict[str, Any] = {}
    if stage in ("prepare", "baseline", "train"):
        parts = {"model files": content.get("model.id"), "chat template": content.get("model.chat_template") or recipe.model.chat_template}
        world |= {name: part for name, part in parts.items() if part}
    if stage == "prepare":
        world["train files"] = content.get("data.path") or content.get("data.url")
        if data.transforms:
            world["transforms"] = plain(data.transforms)
            world |= _identities("extensions", data.transforms)
        if data.contamination is not Contamination.report:  # what is told alone changes no row
            world["kept apart"] = [data.contamination.value, held_out]
        if "fraction" in held_out and data.eval_fraction:
            world["held out"] = [data.eval_fraction, recipe.seed, *(v for v in (data.eval_group, data.eval_stratify) if v)]
    if stage == "baseline" or (stage == "train" and recipe.trainer.eval_steps):
        world["held out"] = held_out
        if shaping := [plain(item) for item in data.transforms if shapes_held_out(item)]:
            world["held out transforms"] = shaping
            world |= _identities("held out extensions", shaping)
    return world


def _identities(name: str, transforms: list[Any]) -> dict[str, Any]:
    """Under `name`: the content of a person's own file, or another package's version, for each transform that is theirs."""
    classes = {n: kinds("transform").get(n) for n in map(name_of, transforms)}
    found = {n: source.identity for n, cls in classes.items() if cls is not None and (source := origin(cls))}
    return {name: found} if found else {}
