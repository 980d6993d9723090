"""The expected calibration error is that of its definition, in resamples too: overconfident and underconfident models, and perfect ones."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from tuner.eval.calibration import BINS, NAME, confident, error
from tuner.eval.compare import compare
from tuner.eval.scores import Scored, summary


def rows(logits: NDArray[np.float32], true: NDArray[np.int64]) -> list[Scored]:
    counts = [confident(one, right=bool(one.argmax() == label)) for one, label in zip(logits, true, strict=True)]
    return [Scored(prompt=[], reference="", counts=count, tokens=1) for count in counts]


def by_definition(logits: NDArray[np.float32], true: NDArray[np.int64]) -> float:
    shares = np.exp(logits.astype(float)) / np.exp(logits.astype(float)).sum(1, keepdims=True)
    confidence, right = shares.max(1), logits.argmax(1) == true
    edges = np.linspace(0, 1, BINS + 1)
    total = 0.0
    for low, high in pairwise(edges):
        inside = (confidence >= low) & (confidence < high if high < 1 else confidence <= high)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return total


@pytest.mark.parametrize("sharp", [0.1, 1.0, 8.0])
def test_it_is_that_of_its_definition(sharp: float) -> None:
    random = np.random.default_rng(0)
    logits = (sharp * random.normal(size=(400, 4))).astype(np.float32)
    true = random.integers(0, 4, size=400)
    assert summary(rows(logits, true), {NAME: error})[NAME] == pytest.approx(by_definition(logits, true), abs=1e-9)


def test_known_cases() -> None:
    sure = np.asarray([[50.0, 0.0]] * 4, np.float32)
    assert summary(rows(sure, np.zeros(4, int)), {NAME: error})[NAME] == pytest.approx(0)
    assert summary(rows(sure, np.asarray([0, 1, 1, 1])), {NAME: error})[NAME] == pytest.approx(0.75)
    three_of_four = np.asarray([[math.log(3), 0.0]] * 4, np.float32)
    assert summary(rows(three_of_four, np.asarray([0, 0, 0, 1])), {NAME: error})[NAME] == pytest.approx(0, abs=1e-6)


def test_less_is_better_and_resamples_have_their_own() -> None:
    random = np.random.default_rng(1)
    logits = random.normal(size=(300, 3)).astype(np.float32)
    true = logits.argmax(1)
    true[::3] = (true[::3] + 1) % 3  # right two times of three
    before, after = rows(9 * logits, true), rows(logits, true)
    found = compare(before, after, samples=200, seed=0, formulas={NAME: error})
    assert found["verdicts"][NAME] == "better"
    low, high = found["intervals"][NAME]
    assert low < found["tuned"][NAME] - found["base"][NAME] < high < 0
