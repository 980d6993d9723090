"""Trying again where the Hub has trouble for a moment: `patiently(upload, tell=print)` does what `upload` does, four times at the most.

huggingface_hub itself tries uploads of large files again; not what creates a repository, nor the commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import httpx2
from huggingface_hub.errors import HfHubHTTPError

T = TypeVar("T")
WAITS_S = (2, 10, 40)  # before the second try, the third, the fourth
LONGEST_S = 300  # that a Hub which names a time is waited for
PASSING = (408, 409, 429, 500, 502, 503, 504)


def patiently(act: Callable[[], T], *, tell: Callable[[str], None]) -> T:
    """What `act` gives. Raises what it raises, at once where waiting is no help, else after the last try."""
    for wait in WAITS_S:
        try:
            return act()
        except Exception as error:
            trouble = _trouble(error)
            if trouble is None or trouble[1] > LONGEST_S:
                raise
            what, asked = trouble
            pause = max(wait, asked)
            tell(f"{what}; trying again in {pause} s")
            time.sleep(pause)
    return act()


def _trouble(error: Exception) -> tuple[str, int] | None:
    """(what is wrong for a moment, seconds that the Hub asks to wait); None for what stays wrong."""
    found = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error  # of one file among several
    if isinstance(found, HfHubHTTPError) and found.response.status_code in PASSING:
        asked = found.response.headers.get("Retry-After", "")
        return f"the Hub answered {found.response.status_code}", int(asked) if asked.isdigit() else 0
    if isinstance(found, httpx2.TransportError):
        return f"the Hub cannot be reached ({type(found).__name__})", 0
    return None
