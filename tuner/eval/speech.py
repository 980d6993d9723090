"""Errors of transcripts: `errors("one two", "one to")` -> counts, as jiwer finds them; `wer` and `cer` are formulas of their sums.

Both are of all rows together: errors over words (characters) of the references, as `jiwer.wer` of two lists is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval.scores import Formula, Sums, mean_loss
from tuner.registry import load
from tuner.schema.audio import Normalizer


def jiwer() -> Any:
    """The package that aligns texts. Raises TuneError (code 4) where it is missing."""
    try:
        return load("jiwer")
    except ImportError as error:
        raise TuneError(
            "transcripts are measured with jiwer", "task", "pip install 'tuner[speech]', or set eval=none", code=ENVIRONMENT
        ) from error


def normalizer(name: Normalizer, *, english: bool, spellings: dict[str, str] | None) -> Callable[[str], str]:
    """The function that makes texts alike; `spellings`: British to American, as a model's `normalizer.json` has them."""
    if name is Normalizer.none:
        return lambda text: " ".join(text.split())
    made: Any = (
        EnglishTextNormalizer(spellings or {})
        if name is Normalizer.english or (name is Normalizer.auto and english)
        else BasicTextNormalizer()
    )
    return lambda text: " ".join(made(text).split())


def errors(reference: str, answer: str, *, spaced: bool = True) -> dict[str, float]:
    """Of one row: `words` of the reference and errors in them, `characters` too; of unspaced writing characters alone, without spaces."""
    if not spaced:
        reference, answer = reference.replace(" ", ""), answer.replace(" ", "")
    found = _counted(jiwer().process_characters([reference], [answer]), "character")
    return found | (_counted(jiwer().process_words([reference], [answer]), "word") if spaced else {})


def _counted(aligned: Any, unit: str) -> dict[str, float]:
    wrong = aligned.substitutions + aligned.deletions
    return {f"{unit}s": float(aligned.hits + wrong), f"{unit}_errors": float(wrong + aligned.insertions)}


def rate(unit: str) -> Formula:
    """Errors over what there is."""

    def of(sums: Sums) -> Any:
        return sums[f"{unit}_errors"] / sums[f"{unit}s"]

    return of


def formulas(*, spaced: bool, generated: bool) -> dict[str, Formula]:
    """Loss, and the rates."""
    words: dict[str, Formula] = {"wer": rate("word")} if spaced else {}
    return {"loss": mean_loss} | (words | {"cer": rate("character")} if generated else {})
