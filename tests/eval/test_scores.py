"""Means of rows: loss by tokens, scores by rows."""

from __future__ import annotations

import math

import pytest

from tuner.eval.scores import Scored, summary


def row(loss_sum: float, tokens: int, **scores: float) -> Scored:
    return Scored(prompt=[], reference="", loss_sum=loss_sum, tokens=tokens, scores=scores)


def test_summary_weighs_loss_by_tokens_and_scores_by_rows() -> None:
    found = summary([row(10, 1, exact_match=1), row(10, 9, exact_match=0, extra=1), row(0, 0, exact_match=0)])
    assert found["loss"] == 2.0
    assert found["perplexity"] == pytest.approx(math.exp(2))
    assert found["exact_match"] == pytest.approx(1 / 3)
    assert found["extra"] == 1.0, "over the rows that have it"


def test_an_absurd_loss_has_a_perplexity_all_the_same() -> None:
    assert math.isfinite(summary([row(1e9, 1)])["perplexity"])
