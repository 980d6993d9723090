"""How near what is found is: `ranked(…)` gives each row `mrr@10`, `ndcg@10`, `recall@1`; `reordered(…)` a query; `correlated(…)`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tuner.eval.labels import pairs
from tuner.eval.scores import Scored

DEEP = 10  # places that count
FITS = 0.5  # from there on a label says that a passage fits
AT_ONCE = 512  # rows whose likeness to all texts is computed at once


def ranked(
    scored: list[Scored],
    table: NDArray[np.float32],
    asked: NDArray[np.int64],
    texts: Sequence[Sequence[str]],
    place: dict[str, int],
    name: str,
) -> None:
    """Search each row's first text (`asked`: its place in the `table` of vectors) among all others; right is its second.

    One text is right, so nDCG is 1 / log2(1 + its rank) and MRR 1 / its rank, 0 beyond the tenth.
    """
    answers = np.asarray(sorted({place[text] for row in texts for text in row[1:]}))
    flat = {index: text for text, index in place.items()}
    right = np.searchsorted(answers, [place[row[1]] for row in texts])
    others: dict[str, set[int]] = {}
    for row, number in zip(texts, right.tolist(), strict=True):
        others.setdefault(row[0], set()).add(number)
    for first in range(0, len(texts), AT_ONCE):
        part = slice(first, first + AT_ONCE)
        near = table[asked[part]] @ table[answers].T
        near[answers[None, :] == asked[part][:, None]] = -np.inf  # a text does not find itself
        for index, given in enumerate(texts[part]):  # what else is right for the same question is no miss
            near[index, sorted(others[given[0]] - {int(right[first + index])})] = -np.inf
        mine = np.take_along_axis(near, right[part][:, None], axis=1)
        ranks = (near > mine).sum(1) + 1
        for one, rank, best in zip(scored[part], ranks.tolist(), near.argmax(1).tolist(), strict=True):
            found = rank <= DEEP
            one.scores |= {
                f"ndcg@{DEEP}{name}": 1 / math.log2(1 + rank) if found else 0.0,
                f"mrr@{DEEP}{name}": 1 / rank if found else 0.0,
                f"recall@1{name}": float(rank == 1),
            }
            if not name:
                one.answer = flat[int(answers[best])]


def reordered(labels: Sequence[float], numbers: Sequence[float]) -> tuple[list[int], dict[str, float]]:
    """(the passages of one query, best first; nDCG and MRR). `labels` say how well each fits, `numbers` what the model says of it.

    Among passages with the same number the worst comes first. MRR is of the first that fits at least by half.
    """
    order = sorted(range(len(labels)), key=lambda i: (-numbers[i], labels[i]))
    gain, most = (
        sum(labels[i] / math.log2(2 + n) for n, i in enumerate(some[:DEEP])) for some in (order, sorted(order, key=lambda i: -labels[i]))
    )
    first = next((n for n, i in enumerate(order[:DEEP], 1) if labels[i] >= FITS), None)
    return order, {f"ndcg@{DEEP}": gain / most if most else 0.0, f"mrr@{DEEP}": 1 / first if first else 0.0}


def correlated(scored: list[Scored], said: Sequence[float], true: Sequence[float], name: str = "") -> None:
    """What Pearson's (`value`) and Spearman's (`rank`) correlation are made of, by row; ranks are those among all rows."""
    x, y = pd.Series(said, dtype=float), pd.Series(true, dtype=float)
    values, ranks = pairs(x.to_numpy(), y.to_numpy(), f"value{name}"), pairs(x.rank().to_numpy(), y.rank().to_numpy(), f"rank{name}")
    for row, one, other in zip(scored, values, ranks, strict=True):
        row.counts |= one | other
