"""Base against tuned on the same rows: means, and paired-bootstrap intervals of the difference. `compare(base, tuned, samples=1000)`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.eval.scores import TEXT, Formula, Scored, columns, summary, whole
from tuner.measures import lower_is_better


def compare(base: list[Scored], tuned: list[Scored], *, samples: int, seed: int, formulas: Mapping[str, Formula] = TEXT) -> dict[str, Any]:
    """`{"base": {metric: value}, "tuned": …, "intervals": {metric: [low, high]}, "verdicts": {metric: …}}`.

    Intervals hold 95 % of tuned minus base over `samples` resamples of the rows, the same for both
    (paired bootstrap, Koehn 2004, https://aclanthology.org/W04-3250).
    """
    rows = len(base)
    draws = np.random.default_rng(seed).integers(0, rows, size=(samples, rows))
    before, after = summary(base, formulas), summary(tuned, formulas)
    drawn_base, drawn_tuned = _drawn(base, draws), _drawn(tuned, draws)
    intervals: dict[str, list[float]] = {}
    for name in before:
        if name in formulas:
            was = formulas[name](drawn_base)
            differences = (formulas[name](drawn_tuned) - was)[~np.isnan(was)]  # a resample may hold no row that says anything of it
        else:
            pairs = [
                (a.scores[name], b.scores[name]) if name in a.scores else (math.nan, math.nan) for a, b in zip(base, tuned, strict=True)
            ]
            drawn = np.asarray([b - a for a, b in pairs])[draws]
            there = (~np.isnan(drawn)).sum(1)  # a resample may hold no row that has this score
            differences = np.nansum(drawn, axis=1)[there > 0] / there[there > 0]
        intervals[name] = [round(float(v), 6) for v in np.percentile(differences, [2.5, 97.5])]
    return {
        "base": before,
        "tuned": after,
        "intervals": intervals,
        "verdicts": {n: verdict(n, i) for n, i in intervals.items()},
        "rows": rows,
    }


def rewarded(base: list[Scored], tuned: list[Scored]) -> None:
    """Give rows that were liked or not their `reward_accuracy`: whether the tuned model finds what was liked likelier than the base does,
    and what was not unlikelier: the sign of DPO's implicit reward, log p(tuned) − log p(base). 0.5 where nothing moved, so of the base."""
    for before, after in zip(base, tuned, strict=True):
        if after.liked is not None and after.tokens:
            gained = before.loss_sum - after.loss_sum
            before.scores["reward_accuracy"] = 0.5
            after.scores["reward_accuracy"] = 0.5 if gained == 0 else float((gained > 0) is after.liked)


def _drawn(rows: list[Scored], draws: NDArray[np.int64]) -> dict[str, Any]:
    """The sums that formulas take, of each resample."""
    sums: dict[str, Any] = {name: column[draws].sum(1) for name, column in columns(rows).items()}
    if rows[0].detail is None:
        return sums
    times = np.zeros((len(draws), len(rows)))
    np.add.at(times, (np.arange(len(draws))[:, None], draws), 1)
    return sums | whole(rows, times)


def verdict(name: str, interval: list[float]) -> str:
    """Whether tuned is better, as far as the rows can tell."""
    low, high = (-interval[1], -interval[0]) if lower_is_better(name) else interval
    return "better" if low > 0 else "worse" if high < 0 else "cannot tell"
