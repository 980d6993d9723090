"""JSON Schema (draft 2020-12) of a recipe, made from the dataclasses: `json_schema()["properties"]["trainer"]`, for editors."""

from __future__ import annotations

import dataclasses
import types
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import MISSING

from tuner.registry import kinds
from tuner.schema.base import Section, default_of, docs, plain
from tuner.schema.describe import describe_option
from tuner.schema.documents import list_options, list_recipes
from tuner.schema.recipe import DEFAULTS, GROUPS, Recipe, mapped_class, nested_class, section_class
from tuner.schema.values import REFERENCE

Schema = dict[str, Any]
BOUNDS = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}
TYPES: dict[Any, Schema] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
    Any: {},
}


def json_schema() -> Schema:
    """The schema of a recipe file; recipe names in it are those that can be named from here."""
    properties = {"defaults": _defaults()}
    definitions: Schema = {
        "reference": {"type": "string", "pattern": REFERENCE.pattern, "description": "the value of another key: ${section.key}"}
    }
    for spec in dataclasses.fields(Recipe):
        if spec.name not in GROUPS:
            properties[spec.name] = _field(Recipe, spec)
            continue
        variants = kinds(spec.name) or {"": section_class(spec.name)}
        names = []
        for variant, cls in variants.items():
            names.append(f"{spec.name}.{variant}" if variant else spec.name)
            definitions[names[-1]] = _section(cls)
        references = [{"$ref": f"#/$defs/{name}"} for name in names]
        shape: Schema = references[0] if len(references) == 1 else {"anyOf": references}
        properties[spec.name] = {"description": docs(Recipe)[spec.name], **shape}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tune recipe",
        "description": "A fine-tuning recipe: run it with `tune recipe=FILE`.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        "$defs": definitions,
    }


def _defaults() -> Schema:
    """The `defaults:` list: one option a section, or a recipe to build on."""
    choices: Schema = {}
    for group in GROUPS:
        options = [{"const": o, "description": describe_option(group, o)} for o in list_options(group)]
        choices[group] = {"oneOf": options, "description": f"default: {DEFAULTS[group]}"}
    # Named recipes for completion; any other text may name a person's own recipe or a file.
    choices["recipe"] = {"anyOf": [{"enum": list(list_recipes())}, {"type": "string"}], "description": "a recipe to build on"}
    item = {"type": "object", "properties": choices, "additionalProperties": False, "minProperties": 1, "maxProperties": 1}
    text = "Options of sections, and recipes to build on: `- model: smollm2-135m`."
    return {"description": text, "type": "array", "items": {"anyOf": [item, {"const": "_self_"}]}}


def _section(cls: type[Section]) -> Schema:
    properties = {spec.name: _field(cls, spec) for spec in dataclasses.fields(cls)}
    text = " ".join((cls.__doc__ or "").split())
    return {"description": text, "type": "object", "properties": properties, "additionalProperties": False}


def _field(cls: type[Section], spec: dataclasses.Field[Any]) -> Schema:
    about: Schema = {"description": docs(cls).get(spec.name, "")}
    if inner := nested_class(cls, spec.name):
        return about | {"anyOf": [_section(inner), {"type": "null"}]}
    if each := mapped_class(cls, spec.name):
        return about | {"type": "object", "additionalProperties": _section(each)}
    default = default_of(spec)
    if default != MISSING:
        about["default"] = plain(default)
    value = _accepted(spec.metadata["accepts"]) if spec.metadata["accepts"] else _type(get_type_hints(cls)[spec.name])
    value |= {BOUNDS[bound]: limit for bound, limit in spec.metadata["bounds"].items()}
    if "string" in str(value.get("type")):
        return about | value
    return about | {"anyOf": [value, {"$ref": "#/$defs/reference"}]}


def _accepted(words: str) -> Schema:
    """The type that a field's `accepts` words, as `str | list[str]`."""
    named: Schema = {"str": TYPES[str], "list[str]": {"type": "array", "items": TYPES[str]}, "null": {"type": "null"}}
    return {"anyOf": [named[word] for word in words.split(" | ")]}


def _type(hint: Any) -> Schema:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return {"enum": list(hint.__members__)}
    if get_origin(hint) in (Union, types.UnionType):
        inner = [_type(arg) for arg in get_args(hint)]
        if all(list(i) == ["type"] for i in inner):
            return {"type": [i["type"] for i in inner]}
        return {"anyOf": inner}
    if get_origin(hint) is list:
        return {"type": "array", "items": _type(get_args(hint)[0])}
    if get_origin(hint) is dict:
        return {"type": "object", "additionalProperties": _type(get_args(hint)[1])}
    return dict(TYPES[hint])
