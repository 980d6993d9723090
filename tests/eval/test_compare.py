"""Base against tuned: the intervals hold the truth as often as they say, and the verdict is about the right direction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tuner.eval.compare import compare, verdict
from tuner.eval.scores import Scored


def rows(scores: list[float], losses: list[float], tokens: int = 10) -> list[Scored]:
    pairs = zip(scores, losses, strict=True)
    return [Scored(prompt=[], reference="", scores={"exact_match": s}, loss_sum=loss * tokens, tokens=tokens) for s, loss in pairs]


def test_95_percent_intervals_hold_the_truth_about_95_times_in_100() -> None:
    draw = np.random.default_rng(0)
    trials, held_score, held_loss = 200, 0, 0
    for trial in range(trials):
        before = draw.random(80) < 0.3
        after = np.where(before, draw.random(80) < 0.9, draw.random(80) < 0.5)  # truth: 0.3·0.9 + 0.7·0.5 − 0.3 = 0.32
        first, second = draw.normal(3, 0.5, 80), draw.normal(2.6, 0.5, 80)
        found = compare(rows(before.tolist(), first.tolist()), rows(after.tolist(), second.tolist()), samples=400, seed=trial)
        low, high = found["intervals"]["exact_match"]
        held_score += low <= 0.32 <= high
        low, high = found["intervals"]["loss"]
        held_loss += low <= -0.4 <= high
    assert 0.89 <= held_score / trials <= 0.99
    assert 0.89 <= held_loss / trials <= 0.99


def test_the_bootstrap_is_paired() -> None:
    """A small gain on every row is certain, however much rows differ from each other; unpaired it would drown."""
    draw = np.random.default_rng(0)
    losses = draw.normal(3, 2, 50)
    found = compare(rows([0] * 50, losses.tolist()), rows([0] * 50, (losses - 0.01).tolist()), samples=500, seed=0)
    low, high = found["intervals"]["loss"]
    assert low == pytest.approx(-0.01, abs=1e-6)
    assert high == pytest.approx(-0.01, abs=1e-6)
    assert found["verdicts"]["loss"] == "better"


def test_means_intervals_and_verdicts() -> None:
    found = compare(rows([0, 0, 0, 1] * 10, [2.0] * 40), rows([1, 1, 1, 0] * 10, [1.0] * 40), samples=1000, seed=0)
    assert (found["base"]["exact_match"], found["tuned"]["exact_match"], found["rows"]) == (0.25, 0.75, 40)
    low, high = found["intervals"]["exact_match"]
    assert 0.1 < low < 0.5 < high < 0.9
    assert found["intervals"]["loss"] == [-1.0, -1.0]
    assert found["base"]["perplexity"] == pytest.approx(math.exp(2))
    assert found["intervals"]["perplexity"] == pytest.approx([math.e - math.exp(2)] * 2, abs=1e-5)
    assert found["verdicts"] == {"exact_match": "better", "loss": "better", "perplexity": "better"}


def test_the_same_answers_cannot_be_told_apart() -> None:
    same = rows([0, 1, 0, 1], [1, 2, 3, 4])
    found = compare(same, same, samples=200, seed=0)
    assert set(found["verdicts"].values()) == {"cannot tell"}
    assert found["intervals"]["exact_match"] == [0.0, 0.0]


def test_the_same_seed_gives_the_same_intervals() -> None:
    draw = np.random.default_rng(1)
    pair = [rows((draw.random(30) < 0.5).tolist(), draw.normal(2, 1, 30).tolist()) for _ in range(2)]
    assert compare(*pair, samples=300, seed=4) == compare(*pair, samples=300, seed=4)
    assert compare(*pair, samples=300, seed=4)["intervals"] != compare(*pair, samples=300, seed=5)["intervals"]


@pytest.mark.parametrize(
    ("name", "interval", "expected"),
    [
        ("exact_match", [0.1, 0.2], "better"),
        ("exact_match", [-0.2, -0.1], "worse"),
        ("exact_match", [-0.1, 0.2], "cannot tell"),
        ("exact_match", [0.0, 0.2], "cannot tell"),
        ("loss", [-0.2, -0.1], "better"),
        ("loss", [0.1, 0.2], "worse"),
        ("perplexity", [-3.0, -0.1], "better"),
    ],
)
def test_verdicts(name: str, interval: list[float], expected: str) -> None:
    assert verdict(name, interval) == expected


def test_a_field_that_only_some_rows_have() -> None:
    """Rows with other JSON fields: each field is compared over the rows whose reference has it, also when a resample has none of them."""
    base = rows([0] * 4, [1] * 4)
    tuned = rows([0] * 4, [1] * 4)
    base[0].scores["field/rare"], tuned[0].scores["field/rare"] = 0.0, 1.0
    found = compare(base, tuned, samples=200, seed=0)
    assert found["intervals"]["field/rare"] == [1.0, 1.0]
    assert found["verdicts"]["field/rare"] == "better"
