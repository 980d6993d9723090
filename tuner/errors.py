"""What a person reads when something is wrong: `raise TuneError("no such file", where="data.path", fix="check the path")`."""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from dataclasses import dataclass

OK, BUG, BAD_RECIPE, GATE, ENVIRONMENT = 0, 1, 2, 3, 4
INTERRUPTED = 130


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One fault: what is wrong, where it stands (file:line, or the override), and what to do about it."""

    what: str
    where: str = ""
    fix: str = ""


class TuneError(Exception):
    """A fault that a person can mend. `code` is the exit code: 2 bad recipe or usage, 3 a gate failed, 4 environment."""

    def __init__(self, what: str = "", where: str = "", fix: str = "", *, code: int = BAD_RECIPE, problems: Iterable[Problem] = ()) -> None:
        self.problems = [*problems] or [Problem(what=what, where=where, fix=fix)]
        self.code = code
        super().__init__("; ".join(p.what for p in self.problems))


class Stopped(BaseException):
    """A signal stopped the work; the same command goes on. Exit `code`: 0 for a preemption (SIGTERM, SIGUSR1), else 128 + it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.code = OK if number in (signal.SIGTERM, signal.SIGUSR1) else 128 + number
        super().__init__(f"stopped by {signal.Signals(number).name}")


def nearest(word: str, candidates: Iterable[str], *, synonyms: dict[str, str] | None = None) -> str | None:
    """The candidate that `word` most likely stands for: by synonym first (`lr`), then by spelling; None when nothing is near."""
    names = list(candidates)
    folded = word.lower().replace("-", "_")
    if synonyms and synonyms.get(folded) in names:
        return synonyms[folded]
    by_case = {n.lower().replace("-", "_"): n for n in names}
    if folded in by_case:
        return by_case[folded]
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return found[0] if found else None
