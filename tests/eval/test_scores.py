"""Scores of answers: JSON validity, fields, exact by value."""

from __future__ import annotations

import math

import pytest

from tuner.eval.scores import Scored, score, summary

REFERENCE = '{"intent": "refund", "urgent": true, "count": 2}'
BOTH = ["json", "exact_match"]


@pytest.mark.parametrize(
    ("answer", "valid", "fields", "exact"),
    [
        (REFERENCE, 1, (1, 1, 1), 1),
        ('{"count":2,"urgent":true,"intent":"refund"}', 1, (1, 1, 1), 1),  # order and spaces do not matter
        ('  {"intent": "refund", "urgent": true, "count": 2}\n', 1, (1, 1, 1), 1),
        ('{"intent": "refund", "urgent": true, "count": 3}', 1, (1, 1, 0), 0),
        ('{"intent": "refund", "urgent": true}', 1, (1, 1, 0), 0),
        ('{"intent": "refund", "urgent": true, "count": 2, "more": 1}', 1, (1, 1, 1), 0),
        ('{"intent": "Refund", "urgent": "true", "count": "2"}', 1, (0, 0, 0), 0),
        ('["refund"]', 1, (0, 0, 0), 0),
        ('"refund"', 0, (0, 0, 0), 0),
        ("3", 0, (0, 0, 0), 0),
        ("null", 0, (0, 0, 0), 0),
        ("", 0, (0, 0, 0), 0),
        (REFERENCE + " Anything else?", 0, (0, 0, 0), 0),
        (REFERENCE[:-1], 0, (0, 0, 0), 0),
        ("```json\n" + REFERENCE + "\n```", 0, (0, 0, 0), 0),  # a fence is not JSON: the user's parser would fail
    ],
)
def test_json_answers(answer: str, valid: int, fields: tuple[int, int, int], exact: int) -> None:
    expected = {"valid_json": valid, "field/intent": fields[0], "field/urgent": fields[1], "field/count": fields[2], "exact_match": exact}
    assert score(answer, REFERENCE, BOTH) == expected


def test_true_is_not_one_and_null_is_a_value() -> None:
    """Python's `True == 1` must not make a wrong type right."""
    assert score('{"a": 1}', '{"a": true}', BOTH) == {"valid_json": 1, "field/a": 0, "exact_match": 0}
    assert score('{"a": false}', '{"a": 0}', BOTH)["exact_match"] == 0
    assert score('{"a": [1, {"b": 1}]}', '{"a": [1, {"b": true}]}', BOTH)["exact_match"] == 0
    assert score("{}", '{"a": null}', BOTH) == {"valid_json": 1, "field/a": 0, "exact_match": 0}
    assert score('{"a": null}', '{"a": null}', BOTH) == {"valid_json": 1, "field/a": 1, "exact_match": 1}
    assert score('{"a": 2.0}', '{"a": 2}', BOTH)["exact_match"] == 1, "a number is its value"


def test_plain_text() -> None:
    assert score(" Paris ", "Paris", ["exact_match"]) == {"exact_match": 1}
    assert score("paris", "Paris", ["exact_match"]) == {"exact_match": 0}
    assert score("Paris", "Paris", []) == {}
    assert score("x", "plain", ["json"]) == {"valid_json": 0}


@pytest.mark.parametrize("answer", ["[" * 100_000, "9" * 10_000, '{"a": NaN}', '{"a": Infinity}', "\x00", '{"a": "\ud800"}'])
def test_wild_answers_score_zero_and_break_nothing(answer: str) -> None:
    assert score(answer, REFERENCE, BOTH)["exact_match"] == 0
    assert score(answer, REFERENCE, BOTH)["field/intent"] == 0


def test_what_is_not_strict_json_is_not_valid() -> None:
    """Python reads NaN, no other parser does (RFC 8259)."""
    assert score('{"intent": NaN}', REFERENCE, ["json"])["valid_json"] == 0


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
