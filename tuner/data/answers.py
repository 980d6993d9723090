"""Answers that stand in a text: `read(row)` -> question, context and answers; `placed(example)` -> where each answer stands, in characters.

{"question": "Who?", "context": "Ada wrote it.", "answers": {"text": ["Ada"], "answer_start": [0]}} -> Placed(spans=[(0, 3)]). Answers may
be a list of such mappings or of texts too, or one text under `answer`; none at all means that the text does not say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.data import turns
from tuner.data.turns import Misfit

NEAR = 32  # characters within which an answer that is said to stand elsewhere is looked for
NONE = "(no answer)"  # how it is written that a text does not say


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Where the answers of a row stand: [(first character, the one behind the last)]; how many were mended, or may stand elsewhere."""

    spans: list[tuple[int, int]]
    mended: int = 0
    guessed: int = 0


def read(row: dict[str, Any]) -> dict[str, Any]:
    """A row as an Example. `answers`: [(text, where it is said to begin, or None)]. Raises Misfit saying what it lacks."""
    found = {name: turns.text(row, name) for name in ("question", "context")}
    for name, text in found.items():
        if not text.strip():
            raise Misfit(f"the {name} is empty")
    given = _parsed(row["answers"], "answers") if "answers" in row else row.get("answer")
    if "answers" in row and given is None:
        raise Misfit("`answers` is null: a row without an answer has an empty list")
    if "answers" not in row and (given is None or isinstance(given, str)):
        given = {"text": [given or ""], "answer_start": [row.get("answer_start")]}
    return found | {"answers": [(text, _start(start)) for text, start in _pairs(given) if text.strip()]}


def _parsed(value: Any, name: str) -> Any:
    """What a cell of a table holds as JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith(("{", "[")):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise Misfit(f"`{name}` is text that is no JSON: {value[:80]}") from error


def _pairs(given: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(given, dict) and isinstance(given.get("text"), list):
        texts, starts = given["text"], given.get("answer_start")
        starts = [None] * len(texts) if starts is None else starts if isinstance(starts, list) else [starts]
        if len(starts) != len(texts):
            raise Misfit(f"{len(texts)} answers, but {len(starts)} places where they begin")
        pairs = list(zip(texts, starts, strict=True))
    elif isinstance(given, list):
        pairs = [(one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, None) for one in given]
    else:
        one = given if isinstance(given, dict) else {"text": given}
        pairs = [(one.get("text"), one.get("answer_start"))]
    for text, start in pairs:
        if not isinstance(text, str):
            raise Misfit(f"an answer is {turns.kind_of(text)}, not text")
        yield text, start


def _start(value: Any) -> int | None:
    if value in (None, ""):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise Misfit(f"`answer_start` is no number: {value!r:.40}") from error
    if isinstance(value, bool) or not number.is_integer():
        raise Misfit(f"`answer_start` counts characters, and this is {value!r:.40}")
    return int(number)


def placed(example: dict[str, Any]) -> Placed:
    """Where the answers stand. One that is a few characters off is mended, where it stands but once nearby.

    Raises Misfit for one that does not stand in its context, or not where the row says.
    """
    spans, mended, guessed = list[tuple[int, int]](), 0, 0
    for given, start in example["answers"]:
        text = given.strip()
        said = None if start is None else start + len(given) - len(given.lstrip())
        begin, sure = _place(example["context"], text, said)
        mended += said is not None and begin != said
        guessed += not sure
        spans.append((begin, begin + len(text)))
    return Placed(spans=spans, mended=mended, guessed=guessed)


def _place(context: str, text: str, start: int | None) -> tuple[int, bool]:
    """(where the text begins, whether it can stand nowhere else)."""
    if start is not None and start >= 0 and context.startswith(text, start):
        return start, True
    everywhere = list(_found(context, text))
    if not everywhere:
        raise Misfit(f"the answer {text!r:.60} does not stand in its context")
    if start is None:
        words = [at for at in everywhere if _is_word(context, at, at + len(text))] or everywhere
        return words[0], len(words) == 1
    near = [at for at in everywhere if abs(at - start) <= NEAR]
    if len(near) == 1:
        return near[0], True
    there = f"it stands at {', '.join(map(str, everywhere[:5]))}" + (" …" if len(everywhere) > 5 else "")
    instead = (
        f"the context has {context[start : start + len(text)]!r:.60}" if 0 <= start < len(context) else "the context has no such place"
    )
    raise Misfit(f"the answer {text!r:.60} is said to begin at character {start}, where {instead}; {there}")


def _found(context: str, text: str) -> Iterator[int]:
    at = context.find(text)
    while at >= 0:
        yield at
        at = context.find(text, at + 1)


def _is_word(context: str, begin: int, end: int) -> bool:
    """Whether letters or digits go on neither before nor behind."""
    before, behind = context[begin - 1 : begin] + context[begin], context[end - 1] + context[end : end + 1]
    return not (len(before) == 2 and before.isalnum()) and not (len(behind) == 2 and behind.isalnum())
