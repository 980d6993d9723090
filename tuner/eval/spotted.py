"""What was found on images, scored: `spotted(examples, rows, files, found, names)` -> Scored rows, with boxes for precision and report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from tuner.data import images
from tuner.data.objects import BoxRow
from tuner.data.shapes import Example
from tuner.eval.boxes import marked, right
from tuner.eval.scores import Scored

SHOWN = 0.5  # the score from which on a box is shown
SIDE = 240  # pixels of an image in the report
NOTHING = "(no object)"


def spotted(
    examples: Sequence[Example],
    rows: Sequence[BoxRow],
    files: Callable[[int, int], list[bytes]],
    found: Sequence[tuple[dict[str, Tensor], Tensor, Tensor]],
    names: Sequence[str],
) -> list[Scored]:
    """Of each row what is there, what was found with a score of at least SHOWN, and what precision and loss are made of.

    `found`: of each row boxes (`model.detection.seen`), losses as sums, and what they are sums of.
    """
    truths = [[[int(k), *b, int(c)] for k, b, c in zip(row.label, row.boxes.tolist(), row.crowd, strict=True)] for row in rows]
    founds = [_boxes(boxes) for boxes, _, _ in found]
    details, scored = marked(truths, founds, len(names)), []
    for number, (example, row) in enumerate(zip(examples, rows, strict=True)):
        _, lost, count = found[number]
        best = sorted((one for one in founds[number] if one[5] >= SHOWN), key=lambda one: -one[5])
        shown = [[names[one[0]], *(round(v, 1) for v in one[1:5]), round(one[5], 3)] for one in best]
        there = [[names[one[0]], *(round(v, 1) for v in one[1:5])] for one in truths[number]]
        image = images.thumbnail(images.opened({"image": files(row.number, 1)[0]}), SIDE)
        one = Scored(
            prompt=[{"role": "user", "content": images.name_of(example, row.index), "image": image}],
            reference="\n".join(said(name, box) for name, *box in there) or NOTHING,
            answer="\n".join(said(name, box, sure) for name, *box, sure in shown) or NOTHING,
            loss_sum=float((lost / (count + (count == 0))).sum()),
            tokens=1,
            counts=dict(zip(("looked", "boxed")[-len(lost) :], lost.tolist(), strict=True)),
            detail=details[number] | right(details[number], SHOWN) | {"size": [row.wide, row.high], "there": there, "shown": shown},
        )
        one.counts |= dict(zip(("weight", "boxes")[-len(lost) :], count.tolist(), strict=True))
        scored.append(one)
    return scored


def _boxes(found: dict[str, Tensor]) -> list[list[Any]]:
    """[class, x, y, width, height, score] of each, out of corners."""
    each = zip(*(found[name].tolist() for name in ("labels", "boxes", "scores")), strict=True)
    return [[label, x, y, right - x, below - y, sure] for label, (x, y, right, below), sure in each]


def said(name: str, box: Any, score: float | None = None) -> str:
    """`cat 0.93 at 10, 20: 30 × 40`."""
    x, y, wide, high = (f"{value:.0f}" for value in box)
    return f"{name}{'' if score is None else f' {score:.2f}'} at {x}, {y}: {wide} × {high}"
