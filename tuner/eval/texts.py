"""Texts that were written: `score(rows, eval)` puts scores, and what BLEU and chrF are made of, into rows; `formulas(eval)` sums up.

BLEU and chrF are those of all rows together, from sums of counts, by sacrebleu's own formulas; so they are in every resample of the rows.
ROUGE is the mean of the rows' F. How a text is cut is chosen once, from all references (`unspaced`):
where more than half of the letters are Han, kana, Thai, Lao, Khmer or Burmese, sacrebleu's `zh` (Han, no kana) or `char`; else `13a`.
ROUGE takes rouge-score's words (a-z and 0-9); characters where the above does; and runs of letters and digits
where more than one letter in a hundred is not of ASCII, since rouge-score would drop those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import regex

from tuner.data.words import UNSPACED, tokens_of
from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval.answered import over, scorer
from tuner.eval.scores import Formula, Scored, Sums
from tuner.registry import load
from tuner.schema.eval import Eval

BLEU = ("sys_len", "ref_len", *(f"{kind}{order}" for kind in ("correct", "total") for order in range(1, 5)))
CHRF = tuple(f"{kind}{order}" for order in range(1, 7) for kind in ("hyp", "ref", "match"))
ROUGE = ("rouge1", "rouge2", "rougeL")
PACKAGES = {"bleu": "sacrebleu.metrics", "chrf": "sacrebleu.metrics", "rouge": "rouge_score.rouge_scorer"}
MANY = 0.01  # letters beyond ASCII in texts that rouge-score's words do not do for
_LETTER = regex.compile(r"\p{L}")
_KANA = regex.compile(r"[\p{Hiragana}\p{Katakana}]")


def ready(wanted: Eval) -> None:
    """Raises TuneError: code 4 where a library that measures is missing, code 2 for a schema that is none."""
    for name in wanted.metrics if wanted.generate else ():
        if name in PACKAGES:
            _library(name)
    scorer(wanted)


def _library(name: str) -> Any:
    try:
        return load(PACKAGES[name])
    except ImportError as error:
        package = PACKAGES[name].partition(".")[0].replace("_", "-")
        fix = "pip install 'tuner[write]', or leave it out of eval.metrics"
        raise TuneError(f"`{name}` is measured with {package}", "eval.metrics", fix, code=ENVIRONMENT) from error


def score(rows: Sequence[Scored], wanted: Eval) -> None:
    """What each row's answer is worth by itself (answered.py); counts of BLEU and chrF, and ROUGE, against its reference."""
    references, metrics, of = [row.reference for row in rows], wanted.metrics, scorer(wanted)
    for row in rows:
        row.scores |= over([of(text, row.reference, row.prompt) for text in row.samples or [row.answer]])
    if "bleu" in metrics:
        bleu = _library("bleu").BLEU(tokenize=cut_for(references), effective_order=True)
        for row in rows:
            found = bleu.sentence_score(row.answer, [row.reference])
            _count(row, "bleu", BLEU, [found.sys_len, found.ref_len, *found.counts, *found.totals])
    if "chrf" in metrics:
        # sacrebleu has no public name for a row's counts; its own bootstrap takes these.
        found = _library("chrf").CHRF()._extract_corpus_statistics([row.answer for row in rows], [references])
        for row, counts in zip(rows, found, strict=True):
            _count(row, "chrf", CHRF, counts)
    if "rouge" in metrics:
        rouge = _library("rouge").RougeScorer(ROUGE, tokenizer=_words_for(references))
        for row in rows:
            row.scores |= {name: float(found.fmeasure) for name, found in rouge.score(row.reference, row.answer).items()}


def _count(row: Scored, metric: str, names: Sequence[str], counts: Sequence[float]) -> None:
    row.counts |= {f"{metric}/{name}": float(count) for name, count in zip(names, counts, strict=True)}


def formulas(wanted: Eval) -> dict[str, Formula]:
    """Those of the metrics that are asked for."""
    found = {"bleu": _each(BLEU, "bleu", _bleu), "chrf": _each(CHRF, "chrf", _chrf)}
    return {name: formula for name, formula in found.items() if wanted.generate and name in wanted.metrics}


def _each(names: Sequence[str], metric: str, one: Callable[[list[int]], float]) -> Formula:
    """sacrebleu's formula of one set of sums, for each resample."""

    def of(sums: Sums) -> Any:
        table = np.stack([np.asarray(sums[f"{metric}/{name}"], float) for name in names], axis=-1)
        values = np.asarray([one(row.astype(int).tolist()) for row in table.reshape(-1, len(names))])
        return values.reshape(table.shape[:-1])

    return of


def _bleu(sums: list[int]) -> float:
    options: dict[str, Any] = {"sys_len": sums[0], "ref_len": sums[1], "correct": sums[2:6], "total": sums[6:10]}
    return float(_library("bleu").BLEU.compute_bleu(**options, smooth_method="exp").score)


def _chrf(sums: list[int]) -> float:
    return float(_library("chrf").CHRF()._compute_f_score(sums))


def unspaced(texts: Sequence[str]) -> bool:
    """Whether more than half of all letters are of scripts that put no space between words."""
    letters = sum(len(_LETTER.findall(text)) for text in texts)
    return sum(len(UNSPACED.findall(text)) for text in texts) * 2 > letters


def cut_for(references: Sequence[str]) -> str:
    """sacrebleu's name of how texts like these are cut into words."""
    if not unspaced(references):
        return "13a"
    chinese = not any(_KANA.search(text) for text in references) and any(regex.search(r"\p{Han}", text) for text in references)
    return "zh" if chinese else "char"


class _Words:
    """A tokenizer as rouge-score takes one: runs of letters and digits, and single characters of unspaced scripts."""

    def tokenize(self, text: str) -> list[str]:
        """In small letters."""
        return tokens_of(text)


def _words_for(references: Sequence[str]) -> _Words | None:
    """None: rouge-score's own."""
    letters = [letter for text in references for letter in _LETTER.findall(text)]
    beyond = sum(not letter.isascii() for letter in letters)
    return _Words() if beyond > MANY * max(1, len(letters)) else None
