"""Steps that change columns: `STEPS["rename"]` makes `{"prompt": 1}` of `{"q": 1}`. What each does is said in schema/transforms/rows.py."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tuner.data.layout import filled
from tuner.data.transforms.steps import Failed, Row, Step, mapped

TRUE, FALSE = ("true", "yes", "y", "1", "on"), ("false", "no", "n", "0", "off")


def _rename(step: Any) -> Callable[[Row], Row]:
    names: dict[str, str] = step.names

    def change(row: Row) -> Row:
        new = {names[k] for k in row if k in names}
        return {names.get(k, k): v for k, v in row.items() if k in names or k not in new}

    return change


def _fill(step: Any) -> Callable[[Row], Row]:
    return lambda row: row | {k: v for k, v in step.values.items() if row.get(k) in (None, "")}


def _template(step: Any) -> Callable[[Row], Row]:
    return lambda row: row | {name: filled(text, row) if "{" in text else text for name, text in step.made.items()}


def key_of(value: Any) -> str:
    """A value as the key of a YAML or JSON mapping: text as it is, all else as JSON writes it (1 and "1" are one key)."""
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _map_values(step: Any) -> Callable[[Row], Row]:
    values = {key_of(old): new for old, new in step.values.items()}

    def change(row: Row) -> Row:
        if step.column not in row:
            return row
        old = row[step.column]
        return row | {step.column: values.get(key_of(old), old)}

    return change


def _parse_json(step: Any) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        value = row.get(step.column)
        if not isinstance(value, str) or not value.strip():
            return row
        try:
            return row | {step.column: json.loads(value)}
        except ValueError as error:
            raise ValueError(f"`{step.column}` is no JSON ({error}): {value[:80]}") from error

    return change


def _to_json(step: Any) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        return row | {step.column: json.dumps(row[step.column], ensure_ascii=False)} if step.column in row else row

    return change


def _split(step: Any) -> Callable[[Row], Row]:
    def change(row: Row) -> Row:
        value = row.get(step.column)
        if not isinstance(value, str):
            return row
        parts = value.split(step.by, len(step.into) - 1)
        rest = {k: v for k, v in row.items() if k != step.column}
        return rest | dict(zip(step.into, parts + [""] * (len(step.into) - len(parts)), strict=True))

    return change


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if isinstance(value, bool) or word in TRUE + FALSE:
        return value if isinstance(value, bool) else word in TRUE
    raise ValueError


def _integer(value: Any) -> int:
    number = float(value) if isinstance(value, str) and not value.strip().lstrip("+-").isdigit() else value
    if isinstance(number, float) and not number.is_integer():
        raise ValueError
    return int(number)


CASTS: dict[str, Callable[[Any], Any]] = {
    "text": lambda value: value if isinstance(value, str) else key_of(value),
    "integer": _integer,
    "number": float,
    "boolean": _boolean,
}


def _cast(step: Any) -> Callable[[Row], Row]:
    cast = CASTS[step.to.value]

    def change(row: Row) -> Row:
        if row.get(step.column) is None:
            return row
        try:
            return row | {step.column: cast(row[step.column])}
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"`{step.column}` is {row[step.column]!r:.60}, which is no {step.to.value}") from error

    return change


def _flatten(step: Any) -> Callable[[Row], Row]:
    def inner(row: Row, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in row.items():
            if isinstance(value, dict):
                yield from inner(value, f"{prefix}{name}{step.by}")
            else:
                yield f"{prefix}{name}", value

    return lambda row: dict(inner(row, ""))


def _explode(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    for index, row in enumerate(rows):
        value = row.get(step.column)
        if value is not None and not isinstance(value, list):
            raise Failed(index, f"`{step.column}` is no list: {value!r:.60}")
        rest = {k: v for k, v in row.items() if k != step.column}
        for item in value or [None]:
            yield index, rest | (item if isinstance(item, dict) else {step.column: item})


STEPS: dict[str, Step] = {
    "rename": mapped(_rename),
    "keep_columns": mapped(lambda step: lambda row: {k: v for k, v in row.items() if k in step.names}),
    "drop_columns": mapped(lambda step: lambda row: {k: v for k, v in row.items() if k not in step.names}),
    "set": mapped(lambda step: lambda row: row | step.values),
    "fill_missing": mapped(_fill),
    "template": mapped(_template),
    "map_values": mapped(_map_values),
    "parse_json": mapped(_parse_json),
    "to_json": mapped(_to_json),
    "split_column": mapped(_split),
    "cast": mapped(_cast),
    "flatten": mapped(_flatten),
    "explode": _explode,
}
