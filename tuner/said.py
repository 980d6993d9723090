"""What a text says that a model wrote: its number, its JSON, whether it is the same as another. `last_number("so 1 + 1 = 2.")` -> 2.0.

Rewards (`task.rewards`) and metrics (`eval.metrics`) of the same name mean the same by it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

from tuner.errors import ENVIRONMENT, TuneError

NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|[-+]?\.\d+")
MISSING = object()


def same(answer: str, reference: str) -> bool:
    """The same text, or the same JSON: numbers by value, but `true` is not 1."""
    said, wanted = as_json(answer), as_json(reference)
    return answer.strip() == reference.strip() or (said is not MISSING and wanted is not MISSING and same_json(said, wanted))


def last_number(text: str) -> float | None:
    """What a text comes to: the last number behind `####`, in `\\boxed{}`, or of all; None where there is none."""
    marked = text.rpartition("####")[2] if "####" in text else next(iter(re.findall(r"\\boxed\{([^{}]*)\}", text)[-1:]), text)
    found = NUMBER.findall(marked)
    return float(found[-1].replace(",", "")) if found else None


def same_number(answer: str, reference: str) -> bool:
    """Both come to the same number."""
    return (said := last_number(answer)) is not None and said == last_number(reference)


def as_json(text: str) -> Any:
    """The value of a text that is JSON, else `MISSING`."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return MISSING


def _refuse(constant: str) -> Any:
    """Python reads NaN and Infinity, JSON has neither."""
    raise ValueError(constant)


def same_json(got: Any, want: Any) -> bool:
    """Equal as JSON: numbers by value, but `true` is not 1."""
    if isinstance(got, bool) or isinstance(want, bool):
        return got is want
    if isinstance(got, dict) and isinstance(want, dict):
        return got.keys() == want.keys() and all(same_json(got[k], want[k]) for k in want)
    if isinstance(got, list) and isinstance(want, list):
        return len(got) == len(want) and all(map(same_json, got, want))
    return bool(got == want)


def by_schema(schema: dict[str, Any], *, at: str) -> Callable[[str], bool]:
    """Whether a text is JSON that the schema takes. Raises TuneError: code 2 for no schema, code 4 without the package jsonschema."""
    try:
        jsonschema = import_module("jsonschema")
    except ImportError as error:
        fix = "pip install 'tuner[rewards]'"
        raise TuneError("`json_schema` needs the package jsonschema", at, fix, code=ENVIRONMENT) from error
    try:
        kind = jsonschema.validators.validator_for(schema)
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise TuneError(f"`{at}` is no JSON schema: {error.message}", at, "mend it") from error
    valid = kind(schema)
    return lambda text: (value := as_json(text)) is not MISSING and bool(valid.is_valid(value))


def by_own(name: str, kind: Any) -> Callable[[str, str, list[dict[str, Any]]], float]:
    """A person's own function (`@reward`, `@metric`), called with those of answer, reference and prompt that it takes."""

    def of(answer: str, reference: str, prompt: list[dict[str, Any]]) -> float:
        given = {"answer": answer, "reference": reference, "prompt": prompt}
        try:
            return float(kind.function(**{key: given[key] for key in kind.takes}))
        except Exception as error:
            code = kind.function.__code__
            where, what = f"{code.co_filename}:{code.co_firstlineno}", f"{type(error).__name__}: {error}"
            raise TuneError(f"`{name}` failed on the answer {answer!r:.80}: {what}", where, "mend it") from error

    return of
