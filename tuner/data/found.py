"""What a row says of the objects in its image: `read({"image": "a.png", "objects": {"bbox": [[1, 2, 30, 40]], "category": ["cat"]}})`.

Objects are a mapping of lists, as the Hub's sets have them, or a list of mappings; no objects are a background.
"""

from __future__ import annotations

import math
from typing import Any

from tuner.data.turns import Misfit

BOXES = ("bbox", "boxes", "bboxes")
CATEGORIES = ("category", "categories", "label", "labels", "category_id", "category_ids", "class", "classes")
CROWDS = ("iscrowd", "is_crowd")


def read(row: dict[str, Any]) -> dict[str, Any]:
    """`{"image": …, "objects": [{"bbox": [x, y, width, height], "category": …, "crowd": False}, …]}`. Raises Misfit for what is none."""
    given = row["objects"]
    if given is not None and not isinstance(given, dict | list):
        raise Misfit(f"`objects` is neither a mapping of lists nor a list of mappings: {given!r:.80}")
    each = _columns(given) if isinstance(given, dict) else [_one(one) for one in given or ()]
    objects = []
    for place, (box, category, crowd) in enumerate(each, 1):
        numbers = list(box) if isinstance(box, list | tuple) else []
        if len(numbers) != 4 or not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers):
            raise Misfit(f"object {place}: `bbox` is not four numbers (x, y, width, height): {box!r:.80}")
        objects.append({"bbox": [float(n) for n in numbers], "category": category, "crowd": bool(crowd)})
    return {"image": row.get("image"), "objects": objects}


def _columns(given: dict[str, Any]) -> list[tuple[Any, Any, Any]]:
    """A mapping of lists, object by object."""
    boxes, categories, crowds = (_of(given, names) for names in (BOXES, CATEGORIES, CROWDS))
    boxes, categories = boxes or [], categories or []
    if not isinstance(boxes, list) or not isinstance(categories, list):
        raise Misfit(f"`objects` is no mapping of lists: {given!r:.80}")
    if len(boxes) != len(categories):
        raise Misfit(f"{len(boxes)} boxes, but {len(categories)} categories")
    crowds = crowds or [False] * len(boxes)
    if len(crowds) != len(boxes):
        raise Misfit(f"{len(boxes)} boxes, but {len(crowds)} of `iscrowd`")
    return list(zip(boxes, categories, crowds, strict=True))


def _one(one: Any) -> tuple[Any, Any, Any]:
    if not isinstance(one, dict):
        raise Misfit(f"an object is a mapping of `bbox` and `category`, not {one!r:.80}")
    return _of(one, BOXES), _of(one, CATEGORIES), _of(one, CROWDS)


def _of(given: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((given[name] for name in names if given.get(name) is not None), None)
