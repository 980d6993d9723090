"""A judge chooses between the answers of base and tuned: `judged(base, tuned, wanted)` gives rows their `judge_win_rate`.

Each pair is shown twice, once in either order, since judges like what stands first (https://arxiv.org/abs/2306.05685): who is named both
times wins; one time each is a draw.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tuner.eval.scores import Scored
from tuner.model.judge import AT_ONCE, said
from tuner.schema.eval import Judge

AT = "eval.judge.url"
NAME = "judge_win_rate"
TASK = "Two assistants answered the same request. Which answer is better: right, complete, to the point? Say A, B or tie, that word alone."
_CHOICE = re.compile(r"\b(A|B|tie)\b", re.IGNORECASE)


def ready(wanted: Judge) -> None:
    """Raises TuneError (code 4) where the judge does not answer, before anything is trained."""
    said(wanted.url, wanted.model, [{"role": "user", "content": "Say A."}], at=AT)


def judged(base: Sequence[Scored], tuned: Sequence[Scored], wanted: Judge, *, tick: Callable[[int], None]) -> dict[str, Any]:
    """Gives the first rows, up to the limit, their share of the judge's two choices; alike answers are a draw, and are not asked about.

    What is told of it: `{"rows": 50, "consistent": 0.9, "unread": 1}`: the share of asked pairs where both orders named the same, and
    answers of the judge that named none (draws). Raises TuneError (code 4) where the judge gives no answer.
    """
    pairs = list(zip(base, tuned, strict=True))[: wanted.limit]
    asked = [(a, b) for a, b in pairs if a.answer.strip() != b.answer.strip()]
    found: dict[int, tuple[float | None, float | None]] = {}

    def ask(pair: tuple[Scored, Scored]) -> tuple[float | None, float | None]:
        before, after = pair
        return _choice(wanted, before, before.answer, after.answer), _flipped(_choice(wanted, before, after.answer, before.answer))

    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number, (pair, both) in enumerate(zip(asked, pool.map(ask, asked), strict=True), 1):
            found[id(pair[0])] = both
            tick(number)
    for before, after in pairs:
        both = found.get(id(before), (0.5, 0.5))
        share = sum(0.5 if one is None else one for one in both) / 2
        before.scores[NAME], after.scores[NAME] = 1 - share, share
    same = sum(first == second for first, second in found.values())
    unread = sum(one is None for both in found.values() for one in both)
    return {"rows": len(pairs), "asked": len(found), "consistent": same / len(found) if found else None, "unread": unread}


def _choice(wanted: Judge, row: Scored, first: str, second: str) -> float | None:
    """1 for the second answer, 0 for the first, 0.5 for neither; None where the judge names none."""
    talk = "\n\n".join(f"{m['role']}: {m.get('content') or ''}" for m in row.prompt)
    right = f"\n\nA right answer: {row.reference}" if row.reference else ""
    shown = f"{talk}{right}\n\nAnswer A: {first}\n\nAnswer B: {second}"
    answer = said(wanted.url, wanted.model, [{"role": "system", "content": TASK}, {"role": "user", "content": shown}], at=AT)
    found = _CHOICE.search(answer)
    return {"a": 0.0, "b": 1.0, "tie": 0.5}[found.group().lower()] if found else None


def _flipped(choice: float | None) -> float | None:
    return None if choice is None else 1 - choice
