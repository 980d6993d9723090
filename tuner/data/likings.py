"""Whether an answer was liked, as rows and tables write it: `liked("True")` -> True; `liked(0)` -> False; `liked("good")` -> None."""

from __future__ import annotations

from typing import Any

WORDS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}  # in small letters


def liked(label: Any) -> bool | None:
    """True or false, also as 1 or 0 and as text (a CSV file knows nothing else); None of anything else."""
    return WORDS.get(str(label).strip().lower()) if isinstance(label, bool | int | float | str) else None
