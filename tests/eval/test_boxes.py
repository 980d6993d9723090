"""Average precision of boxes: cases worked by hand, pycocotools' own numbers, and resamples that are what drawing rows anew would be."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.eval.boxes import _evaluated, loss, marked, precision, right
from tuner.eval.compare import compare
from tuner.eval.scores import Scored

BOX, FAR = [0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 10.0, 10.0]


def measured(truths: Any, founds: Any, classes: int = 2, times: NDArray[Any] | None = None) -> tuple[Any, Any]:
    """mAP and mAP@50."""
    sums = {"details": marked(truths, founds, classes), "times": np.ones(len(truths)) if times is None else times}
    return precision(10)(sums), precision(1)(sums)


def test_by_hand() -> None:
    """One box, found exactly; found with an overlap of 8/12; missed; found behind a wrong one that is surer; twice."""
    truth = [[[0, *BOX, 0]]]
    assert measured(truth, [[[0, *BOX, 0.9]]]) == pytest.approx((1.0, 1.0))
    shifted = [[0, 2.0, 0.0, 10.0, 10.0, 0.9]]  # 80 of 120 pixels: right at 0.50, 0.55, 0.60 and 0.65
    assert measured(truth, [shifted]) == pytest.approx((0.4, 1.0))
    assert measured(truth, [[]]) == (0.0, 0.0)
    assert measured(truth, [[[1, *BOX, 0.9]]]) == (0.0, 0.0), "of another class, which is nowhere and does not count"
    assert measured(truth, [[[0, *FAR, 0.9], [0, *BOX, 0.8]]]) == pytest.approx((0.5, 0.5))
    assert measured(truth, [[[0, *BOX, 0.9], [0, *BOX, 0.8]]]) == pytest.approx((1.0, 1.0)), "what is wrong behind all that is right"
    half = measured([[[0, *BOX, 0], [0, *FAR, 0]]], [[[0, *BOX, 0.9]]])
    assert half == pytest.approx((51 / 101, 51 / 101)), "half is recalled: 0.00 to 0.50 of 101 places"
    two = measured([[[0, *BOX, 0], [1, *FAR, 0]]], [[[0, *BOX, 0.9]]])
    assert two == pytest.approx((0.5, 0.5)), "the mean of two classes"
    assert all(math.isnan(value) for value in measured([[]], [[[0, *BOX, 0.9]]]))
    crowd = measured([[[0, *BOX, 0], [0, *FAR, 1]]], [[[0, *FAR, 0.95], [0, *BOX, 0.9]]])
    assert crowd == pytest.approx((1.0, 1.0)), "what is found in a crowd is neither right nor wrong"


def at_random(seed: int, images: int = 12, digits: int = 1) -> tuple[Any, Any]:
    """Boxes of three classes, and what was found near them or elsewhere."""
    chance = random.Random(seed)
    truths, founds = [], []
    for _ in range(images):
        there = [
            [chance.randrange(3), *(float(chance.randint(0, 60)) for _ in range(2)), *(float(chance.randint(8, 30)) for _ in range(2))]
            for _ in range(chance.randint(0, 4))
        ]
        near = [
            [one[0] if chance.random() < 0.8 else 0, *(value + chance.uniform(-3, 3) for value in one[1:]), round(chance.random(), digits)]
            for one in there
            for _ in range(chance.randint(0, 3))
        ]
        stray = [[chance.randrange(3), chance.uniform(0, 60), chance.uniform(0, 60), 12.0, 12.0, round(chance.random(), digits)]]
        truths.append([[*one, int(chance.random() < 0.15)] for one in there])
        founds.append(near + stray * chance.randint(0, 2))
    return truths, founds


@pytest.mark.parametrize("seed", range(6))
def test_it_is_pycocotools_number(seed: int) -> None:
    truths, founds = at_random(seed)
    judge = _evaluated(truths, founds, 3)
    judge.accumulate()
    table = judge.eval["precision"][:, :, :, 0, 0]  # [overlap, recall, class]; -1 where a class is nowhere
    every, half = measured(truths, founds, 3)
    assert 0 < every < half < 1
    assert every == pytest.approx(table[table > -1].mean(), abs=1e-12)
    assert half == pytest.approx(table[0][table[0] > -1].mean(), abs=1e-12)


def test_a_resample_is_what_its_rows_would_be() -> None:
    truths, founds = at_random(0, digits=9)
    chance = np.random.default_rng(0)
    draws = chance.integers(0, len(truths), size=(20, len(truths)))
    times = np.stack([np.bincount(draw, minlength=len(truths)) for draw in draws]).astype(float)
    found = measured(truths, founds, 3, times)
    assert found[0].shape == (20,)
    for number, draw in enumerate(draws):
        alone = measured([truths[i] for i in sorted(draw)], [founds[i] for i in sorted(draw)], 3)
        assert (found[0][number], found[1][number]) == pytest.approx(alone, abs=1e-9)
    assert np.std(found[0]) > 0.01


def test_what_is_shown_is_counted() -> None:
    (detail,) = marked([[[0, *BOX, 0], [1, *FAR, 0]]], [[[0, *BOX, 0.9], [0, *FAR, 0.8], [1, *FAR, 0.3]]], 2)
    assert right(detail, 0.5) == {"right": 1, "wrong": 1}
    assert right(detail, 0.2) == {"right": 2, "wrong": 1}


def test_an_interval_tells_a_better_model() -> None:
    truths, _ = at_random(3, images=30)
    good = [[[*one[:5], 0.9] for one in row] for row in truths]
    poor = [[[one[0], one[1] + 4, *one[2:5], 0.9] for one in row] for row in truths]

    def rows(founds: Any) -> list[Scored]:
        return [Scored(prompt=[], reference="", detail=detail, tokens=1) for detail in marked(truths, founds, 3)]

    found = compare(rows(poor), rows(good), samples=100, seed=0, formulas={"map": precision(10)})
    assert found["tuned"]["map"] == pytest.approx(1.0)
    assert found["base"]["map"] < 0.9
    assert found["intervals"]["map"][0] > 0
    assert found["verdicts"]["map"] == "better"


def test_the_loss_of_rows_is_that_of_all_together() -> None:
    sums = {"looked": 6.0, "weight": 4.0, "boxed": 10.0, "boxes": 5.0}
    assert loss(sums) == 3.5
    assert loss({"boxed": 3.0, "boxes": 0.0}) == 3.0
