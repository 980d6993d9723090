"""Steps of a person's own: `STEPS["shout"]` calls the function that `@transform` declared (tuner/extend.py), a row at a time."""

from __future__ import annotations

import copy
import dataclasses
import random
import traceback
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from tuner.data.transforms.steps import Failed, Row, Step, draws, same_row


def _run(rows: Sequence[Row], step: Any, rng: random.Random) -> Iterator[tuple[int, Row]]:
    settings = {field.name: getattr(step, field.name) for field in dataclasses.fields(step)}
    for index, (row, own) in enumerate(zip(rows, draws(rows, rng), strict=True)):
        given = (copy.deepcopy(row), own) if step.draws else (copy.deepcopy(row),)
        try:
            made = step.function(*given, **settings)
        except Exception as error:
            raise Failed(index, f"`{step.kind}` failed at {_line(error, step)}: {type(error).__name__}: {error}") from error
        if type(made) not in step.returns or (isinstance(made, list) and not all(isinstance(r, dict) for r in made)):
            said = " | ".join(sorted("None" if t is type(None) else t.__name__ for t in step.returns))
            raise Failed(index, f"`{step.kind}` returned {_shown(made)}, and says `-> {said}` ({_place(step)})")
        for one in made if isinstance(made, list) else [] if made is None else [made]:
            yield index, row if same_row(one, row) else one


def _shown(made: Any) -> str:
    return "None" if made is None else f"a list with other things than rows: {made!r:.60}" if isinstance(made, list) else f"{made!r:.60}"


def _place(step: Any) -> str:
    code = step.function.__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def _line(error: Exception, step: Any) -> str:
    """The innermost line of the function's own file."""
    own = step.function.__code__.co_filename
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == own]
    return f"{own}:{lines[-1]}" if lines else _place(step)


STEPS: dict[str, Step] = defaultdict(lambda: _run)
