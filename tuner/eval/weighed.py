"""Answers that rows themselves have, for the report: `weighed(row)` -> each with what base and tuned give it, and whether that is right."""

from __future__ import annotations

from typing import Any

MOST_CHARACTERS = 1200  # of one text in an example


def weighed(row: dict[str, Any]) -> dict[str, Any]:
    """Answers that a row itself has, which were compared and not written: each with what base and tuned give it, and whether that is right.

    Of two the difference of both (`margin`) is to be above 0; one that was liked is to become likelier, another one unlikelier.
    """
    given = [one | {"text": shorten(one["text"])} for one in row.get("weighed", ())]
    if not given:
        return {}
    if len(given) == 1:
        before, after = given[0]["worth"]
        right = after > before if given[0]["name"] == "liked" else after < before
        return {"given": given, "margin": [], "right": right, "said": "likelier" if after > before else "not likelier"}
    margin = [better - worse for better, worse in zip(given[0]["worth"], given[1]["worth"], strict=True)]
    return {"given": given, "margin": margin, "right": margin[1] > 0, "said": "chosen preferred" if margin[1] > 0 else "rejected preferred"}


def shorten(text: str, *, most: int = MOST_CHARACTERS) -> str:
    """The start of a long text, saying how much is left out."""
    return text if len(text) <= most else f"{text[:most]} … ({len(text) - most:,} more characters)"
