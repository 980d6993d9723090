"""BLEU, chrF and ROUGE: those of the libraries, over all rows and in every resample; how texts are cut is told by their script."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval import texts
from tuner.eval.compare import compare
from tuner.eval.scores import Scored, summary
from tuner.schema.eval import Eval

ALL = ["bleu", "chrf", "rouge"]
PAIRS = [
    ("The cat sat on the mat.", "The cat sat on a mat."),
    ("", "It rained all day long."),
    ("There is nothing here, is there?", "There is nothing to see here."),
    ("a", "Completely other words, of course."),
]
CHINESE = [("今天天气很好。", "今天的天气非常好。"), ("我喜欢猫", "我很喜欢狗和猫。")]
JAPANESE = [("今日はいい天気です", "今日はとてもいい天気ですね。"), ("猫が好き", "猫がとても好きです")]
THAI = [("วันนี้อากาศดี", "วันนี้อากาศดีมาก"), ("ฉันชอบแมว", "ฉันชอบแมวและหมา")]
RUSSIAN = [("кошка сидит на столе", "кошка сидела на столе"), ("идёт дождь", "весь день идёт дождь")]


def rows_of(pairs: list[tuple[str, str]]) -> list[Scored]:
    rows = [Scored(prompt=[], reference=reference, answer=answer, tokens=1) for answer, reference in pairs]
    texts.score(rows, Eval(metrics=ALL))
    return rows


@pytest.mark.parametrize(("pairs", "cut"), [(PAIRS, "13a"), (RUSSIAN, "13a"), (CHINESE, "zh"), (JAPANESE, "char"), (THAI, "char")])
def test_corpus_scores_are_sacrebleus(pairs: list[tuple[str, str]], cut: str) -> None:
    answers, references = (list(side) for side in zip(*pairs, strict=True))
    assert texts.cut_for(references) == cut
    found = summary(rows_of(pairs), texts.formulas(Eval(metrics=ALL)))
    assert found["bleu"] == pytest.approx(BLEU(tokenize=cut).corpus_score(answers, [references]).score)
    assert found["chrf"] == pytest.approx(CHRF().corpus_score(answers, [references]).score)


def test_rouge_is_that_of_the_library() -> None:
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    found = summary(rows_of(PAIRS), {})
    for name in ("rouge1", "rouge2", "rougeL"):
        assert found[name] == pytest.approx(np.mean([scorer.score(reference, answer)[name].fmeasure for answer, reference in PAIRS]))


@pytest.mark.parametrize("pairs", [CHINESE, JAPANESE, THAI, RUSSIAN])
def test_rouge_sees_words_beyond_ascii(pairs: list[tuple[str, str]]) -> None:
    """rouge-score's own words are of a-z and 0-9 alone: it would give 0."""
    assert 0.3 < summary(rows_of(pairs), {})["rouge1"] < 1
    assert summary(rows_of([(reference, reference) for _, reference in pairs]), {})["rougeL"] == 1


def test_resamples_have_the_scores_of_their_rows() -> None:
    """A set of one row drawn again and again is the same set; intervals hold the difference."""
    base = rows_of([("no", reference) for _, reference in PAIRS])
    found = compare(base, rows_of(PAIRS), samples=100, seed=0, formulas=texts.formulas(Eval(metrics=ALL)))
    low, high = found["intervals"]["chrf"]
    assert low <= found["tuned"]["chrf"] - found["base"]["chrf"] <= high
    alike = [PAIRS[0]] * 3
    one = compare(rows_of(alike), rows_of(alike), samples=100, seed=0, formulas=texts.formulas(Eval(metrics=ALL)))
    assert one["intervals"]["bleu"] == [0.0, 0.0]


def test_a_library_that_is_missing_is_told_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(TuneError, match="`bleu` is measured with sacrebleu") as caught:
        texts.ready(Eval(metrics=["bleu"]))
    assert caught.value.code == ENVIRONMENT
    texts.ready(Eval(metrics=["rouge"]))
    texts.ready(Eval(metrics=["bleu"], generate=False))
