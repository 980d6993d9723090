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
from tuner.schema.base import Section, default_of, plain, said
from tuner.schema.data import Contamination, Data, source_key
from tuner.schema.recipe import Recipe
from tuner.schema.rewarded import Rewarded
from tuner.schema.task import Labelled
from tuner.schema.teacher import KEY, teacher_of
from tuner.schema.transforms.reading import name_of, shapes_held_out
from tuner.task_files import is_file

VERSIONS = {"prepare": 2, "baseline": 3, "train": 1, "evaluate": 1, "publish": 1}


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
    data, train, held_out = recipe.data, _train_rows(recipe.data, content), _held_out(recipe, content)
    world: dict[str, Any] = {}
    if stage in ("prepare", "baseline", "train"):
        template = content.get("model.chat_template") or recipe.model.chat_template
        parts = {"model files": content.get("model.id"), "chat template": template, "started from": content.get("model.run")}
        world |= {name: part for name, part in parts.items() if part}
    if stage == "train" and (adapter := content.get("adapter.continue_from")):
        world["continued"] = adapter
    if stage in ("baseline", "train") and (teacher := teacher_of(recipe)):
        world["teacher"] = content.get(KEY) or [teacher.id, teacher.source.name, plain(teacher.wheel)]
    if stage == "prepare":
        world |= {"mix": train["mix"], "seed": recipe.seed} if data.mix else {"train files": train["files"]}
        if data.streaming:
            world["shuffle_rows"] = data.shuffle_rows
        if data.transforms:
            world["transforms"] = plain(data.transforms)
            world |= _identities("extensions", data.transforms)
        if data.contamination is not Contamination.report:  # what is told alone changes no row
            world["kept apart"] = [data.contamination.value, held_out]
        if "seed" in held_out and (share := data.eval_rows or data.eval_fraction):
            world["held out"] = [share, recipe.seed, *(v for v in (data.eval_group, data.eval_stratify) if v)]
    if stage == "baseline" or (stage == "train" and recipe.trainer.eval_steps):
        world["held out"] = held_out
        if shaping := [plain(item) for item in data.transforms if shapes_held_out(item)]:
            world["held out transforms"] = shaping
            world |= _identities("held out extensions", shaping)
    if stage in ("baseline", "train") and isinstance(recipe.task, Rewarded):
        world |= _identities("own rewards", list(recipe.task.rewards), group="reward")
    if stage == "baseline":
        world |= _identities("own metrics", list(recipe.eval.metrics), group="metric")
        world |= {name: content[name] for name in ("eval.lm_eval.tasks", "eval.lm_eval.rows") if name in content}
        if recipe.eval.lm_eval:
            world["lm_eval"] = [name for name in recipe.eval.lm_eval.tasks if not is_file(name)]
        world |= {"general": found} if (found := content.get("eval.general")) else {}
    if stage == "baseline" and isinstance(recipe.task, Labelled) and not recipe.task.labels:
        world["labels of"] = train  # which say how many outputs the head has
    return world


def _held_out(recipe: Recipe, content: dict[str, list[str]]) -> dict[str, Any]:
    """What the held-out rows are: files, a split, or a part of the training rows."""
    data = recipe.data
    if content.get("data.eval_path"):
        return {"files": content["data.eval_path"]}
    if data.eval_split:
        return {"id": data.id, "config": data.config, "revision": data.revision, "split": data.eval_split}
    share = {"rows": data.eval_rows} if data.eval_rows else {"fraction": data.eval_fraction}
    chosen = {k: v for k in ("eval_group", "eval_stratify") if (v := getattr(data, k))}
    rows = _train_rows(data, content)
    if data.mix:  # held out before any is chosen
        rows = {"mix": {name: {k: v for k, v in s.items() if k not in ("weight", "rows")} for name, s in rows["mix"].items()}}
    return {**share, "seed": recipe.seed, **rows, **chosen}


def _train_rows(data: Data, content: dict[str, list[str]]) -> dict[str, Any]:
    """What the training rows are: files by their content, or a set by its names; for each source of a mix, with what is said of it."""
    if not data.mix:
        files = content.get("data.path") or content.get("data.url")
        return {k: getattr(data, k) for k in ("id", "config", "revision", "split", "limit")} | {"files": files}
    mix = {}
    for name, source in data.mix.items():
        files = content.get(source_key(name, "path")) or content.get(source_key(name, "url"))
        mix[name] = {k: v for k, v in said(source).items() if k != "path"} | {"files": files}
        mix[name] |= _identities("extensions", source.transforms)
    return {"mix": mix}


def _identities(name: str, items: list[Any], *, group: str = "transform") -> dict[str, Any]:
    """Under `name`: the content of a person's own file, or another package's version, for each transform (or reward) that is theirs."""
    classes = {n: kinds(group).get(n) for n in map(name_of, items)}
    found = {n: source.identity for n, cls in classes.items() if cls is not None and (source := origin(cls))}
    return {name: found} if found else {}
