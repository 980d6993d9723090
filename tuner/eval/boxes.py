"""Average precision of boxes, as COCO has it: `marked(details)` matches what was found to what is there, `precision(10)` is a formula.

Matching, image by image, is that of pycocotools. What an interval needs, the precision of a thousand resamples of the images, pycocotools
cannot give (it would sort all boxes anew for each); so the rest is here, and is the same number where every image counts once.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tuner.eval.scores import Formula, Sums

THRESHOLDS = 10  # of overlap: 0.50, 0.55, … 0.95
RECALLS = np.linspace(0.0, 1.0, 101)  # as pycocotools has them, to the bit
AT_ONCE = 2_000_000  # numbers that are held at once
Detail = dict[str, Any]
Found = tuple[NDArray[Any], ...]


def marked(truths: Sequence[Sequence[Sequence[float]]], founds: Sequence[Sequence[Sequence[float]]], classes: int) -> list[Detail]:
    """What precision is made of, image by image: `{"true": {class: number}, "marks": {class: [[score, right, ignored], …]}}`.

    Truths are [class, x, y, width, height, crowd] each, what was found [class, x, y, width, height, score]. `right` and `ignored` have a
    bit for each threshold of overlap, the lowest 0.50; at most 100 of a class in an image count, those with the best scores.
    """
    evaluation = _evaluated(truths, founds, classes)
    details: list[Detail] = [{"true": {}, "marks": {}} for _ in truths]
    for one in evaluation.evalImgs:
        if one is None:
            continue
        kind, detail = str(one["category_id"]), details[one["image_id"]]
        if number := int(np.count_nonzero(one["gtIgnore"] == 0)):
            detail["true"][kind] = number
        bits = 1 << np.arange(THRESHOLDS)[:, None]
        ignored, right = (np.asarray(one[name], bool) for name in ("dtIgnore", "dtMatches"))
        codes = ((bits * (right & ~ignored)).sum(0).tolist(), (bits * ignored).sum(0).tolist())
        if one["dtScores"]:
            detail["marks"][kind] = [list(mark) for mark in zip(one["dtScores"], *codes, strict=True)]
    return details


def right(detail: Detail, least: float) -> dict[str, int]:
    """Of what was found in an image with a score of at least so much how many are `right` at an overlap of 0.50, and `wrong`."""
    marks = [mark for each in detail["marks"].values() for mark in each if mark[0] >= least and not mark[2] & 1]
    return {"right": sum(mark[1] & 1 for mark in marks), "wrong": sum(not mark[1] & 1 for mark in marks)}


def _evaluated(truths: Any, founds: Any, classes: int) -> Any:
    """pycocotools' evaluation of each image; it prints what it does, which is left out."""
    names = ("category_id", "bbox", "iscrowd"), ("category_id", "bbox", "score")
    sides = []
    for rows, own in zip((truths, founds), names, strict=True):
        each = [(image, one) for image, row in enumerate(rows) for one in row]
        known = [
            {"id": number, "image_id": image, own[0]: int(one[0]), own[1]: list(one[1:5]), "area": one[3] * one[4], own[2]: one[5]}
            for number, (image, one) in enumerate(each, 1)  # pycocotools takes 0 for none
        ]
        side = COCO()
        side.dataset = {"images": [{"id": n} for n in range(len(rows))], "categories": [{"id": n} for n in range(classes)]}
        side.dataset["annotations"] = known
        sides.append(side)
    with contextlib.redirect_stdout(io.StringIO()):
        for side in sides:
            side.createIndex()
        evaluation = COCOeval(*sides, "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    return evaluation


def precision(thresholds: int) -> Formula:
    """Average precision over the lowest so many thresholds of overlap and all classes that are there, 0 to 1; NaN where none is."""

    def of(sums: Sums) -> Any:
        times = np.atleast_2d(sums["times"])
        kinds = sorted({kind for detail in sums["details"] for kind in (*detail["true"], *detail["marks"])})
        found = np.full((len(kinds), len(times)), np.nan)
        for number, kind in enumerate(kinds):
            found[number] = _of_kind(_gathered(sums["details"], kind), times, thresholds)
        there = ~np.isnan(found)
        with np.errstate(invalid="ignore"):
            mean = np.where(there, found, 0).sum(0) / np.where(there.any(0), there.sum(0), np.nan)
        return mean if np.ndim(sums["times"]) == 2 else mean[0]

    return of


def _gathered(details: Sequence[Detail], kind: str) -> Found:
    """Of a class the images of what was found [n], `right` and `ignored` [n], the best score first; how many are true in each image."""
    marks = [(*mark, image) for image, detail in enumerate(details) for mark in detail["marks"].get(kind, ())]
    scores, right, ignored, images = (np.asarray([mark[i] for mark in marks]) for i in range(4))
    order = np.argsort(-scores.astype(float), kind="mergesort")  # as pycocotools has those of one score
    true = np.asarray([detail["true"].get(kind, 0) for detail in details], float)
    return (*(part.astype(np.int64)[order] for part in (images, right, ignored)), true)


def _of_kind(found: Found, times: NDArray[Any], thresholds: int) -> NDArray[np.float64]:
    """A class's precision in each resample [resamples], in which each image stands so many `times` [resamples, images]."""
    images, right, ignored, true = found
    wanted, answer = times @ true, np.zeros(len(times))
    step = max(1, AT_ONCE // max(1, len(images)))
    for first in range(0, len(times), step):
        weights = times[first : first + step, images]
        every = np.cumsum(weights, 1)
        for bit in range(thresholds):
            apart = (ignored >> bit & 1) == 1
            counted = np.cumsum(weights * ~apart, 1) if apart.any() else every
            hits = np.flatnonzero(right >> bit & 1)
            recalled = np.cumsum(weights[:, hits], 1)
            exact = recalled / (counted[:, hits] + np.spacing(1))
            best = np.maximum.accumulate(exact[:, ::-1], 1)[:, ::-1]
            with np.errstate(invalid="ignore", divide="ignore"):
                reached = np.searchsorted(RECALLS, recalled / wanted[first : first + step, None], side="right")
            answer[first : first + step] += (best * np.diff(reached, prepend=0, axis=1)).sum(1) / len(RECALLS)
    return np.where(wanted > 0, answer / thresholds, np.nan)


def loss(sums: Sums) -> Any:
    """The model's own loss over all rows: a mean over what was looked for, where it has one, and the sum over boxes by their number."""
    boxes = np.asarray(sums.get("boxes", 0.0), float)
    mean = sums["looked"] / sums["weight"] if "weight" in sums else 0.0
    return mean + sums["boxed"] / np.maximum(boxes, 1.0)
