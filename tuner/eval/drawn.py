"""Boxes drawn over a small image, for the report: `drawn(row, "data:image/…")` -> a picture of truth, of base and of tuned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

COLOURS = 5  # of boxes, by what is in them; one more for what is not there at all


def drawn(row: dict[str, Any], image: str) -> dict[str, dict[str, Any]]:
    """Of a measured row with boxes: `{"base": {"picture": an inline SVG, "said": "2 of 3 found", "whole": False}, …}`; else none."""
    if "base_detail" not in row or not image:
        return {}
    base, tuned = row["base_detail"], row["tuned_detail"]
    found = {"reference": {"picture": picture(image, base, base["there"]), "said": "", "whole": True}}
    for who, detail in (("base", base), ("tuned", tuned)):
        true, right, wrong = sum(detail["true"].values()), detail["right"], detail["wrong"]
        said = (f"{right} of {true} found" if true else "none there") + (f", {wrong} wrong" if wrong else "")
        found[who] = {"picture": picture(image, detail, detail["shown"]), "said": said, "whole": right == true and not wrong}
    return found


def picture(image: str, detail: dict[str, Any], boxes: Sequence[Sequence[Any]]) -> Markup:
    """An image (a `data:` address) with boxes on it, each [name, x, y, width, height, its score if it has one] in pixels of its `size`."""
    wide, high = detail["size"]
    names = sorted({name for name, *_ in detail["there"]})
    parts = [Markup('<image href="{}" width="{}" height="{}"/>').format(image, wide, high)]
    for name, x, y, w, h, *sure in boxes:
        colour = names.index(name) % COLOURS if name in names else COLOURS
        said = Markup("<title>{}</title>").format(" ".join([name, *(f"{one:.2f}" for one in sure)]))
        parts.append(Markup('<rect class="c{}" x="{}" y="{}" width="{}" height="{}">{}</rect>').format(colour, x, y, w, h, said))
    return Markup('<svg class="boxed" viewBox="0 0 {} {}">{}</svg>').format(wide, high, Markup("").join(parts))
