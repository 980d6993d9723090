"""The loss-mask audit: what is trained, shown on a sample and counted on every row; a mask that cannot teach stops the run (exit 3)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise, repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import TokenRow
from tuner.errors import GATE, Problem, TuneError

MOST_BARS = 14
MOST_LABELS = 8  # told of


def audit(rows: list[TokenRow], tokenizer: PreTrainedTokenizerBase, *, end_of_turn: str) -> dict[str, Any]:
    """Counts over all rows and one decoded sample, as `audit.json` holds them."""
    tokens = sum(len(r.ids) for r in rows)
    counts = [r.supervised for r in rows]
    supervised = sum(counts)
    sample = next((r for r, count in zip(rows, counts, strict=True) if count and not r.truncated), rows[0] if rows else None)
    return {
        "rows": len(rows),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "share": supervised / tokens if tokens else 0.0,
        "rows_fully_masked": counts.count(0),
        "rows_truncated": sum(r.truncated for r in rows),
        "rows_split": sum(r.piece == 1 for r in rows),
        "end_of_turn": end_of_turn,
        "end_of_turn_trained": bool(end_of_turn) and any(end_of_turn in str(tokenizer.decode(r.ids[r.trained].tolist())) for r in rows),
        "sample": segments(sample, tokenizer) if sample else [],
    }


def segments(row: TokenRow, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """The row as runs of text, trained and untrained told apart."""
    edges = [0, *(np.flatnonzero(np.diff(row.trained)) + 1).tolist(), len(row.ids)]
    pairs = [(a, b) for a, b in pairwise(edges) if b > a]
    return [{"text": str(tokenizer.decode(row.ids[a:b].tolist())), "trained": bool(row.trained[a])} for a, b in pairs]


def gate(found: dict[str, Any], *, max_length: int) -> None:
    """Raises TuneError (code 3) when training on this mask is pointless: nothing trained, no end of turn, everything cut."""
    problems, first = [], f"; the first: {found['first']}" if "first" in found else ""
    if found["rows"] == 0:
        what = f"all {found['rows_dropped']} rows are longer than task.max_length and dropped{first}"
        fix = f"raise `task.max_length` (now {max_length} tokens), or use `data.overlong=split`"
        problems.append(Problem(what=what, where="loss-mask audit", fix=fix))
    elif found["supervised_tokens"] == 0:
        fix = "are there assistant messages? look at `data.columns` and `task.loss_on`" + (
            f", and at `task.max_length` ({max_length}): rows are cut" if found["rows_truncated"] else ""
        )
        what = f"no token of {found['rows']} rows would be trained{first}"
        problems.append(Problem(what=what, where="loss-mask audit", fix=fix))
    elif not found["end_of_turn_trained"]:
        what = f"the end of turn ({found['end_of_turn'] or 'none in the template'}) is never trained: the model would not learn to stop"
        problems.append(Problem(what=what, where="loss-mask audit", fix="raise `task.max_length`, or use a chat template that ends turns"))
    if found["rows"] and found.get("rows_without_answer") == found.get("conversations", found["rows"]):
        fix = "an empty answer teaches only to stop: look at `data.columns`, and at the column that holds the answers"
        what = f"all {found['conversations']} rows have an empty answer{first}"
        problems.append(Problem(what=what, where="loss-mask audit", fix=fix))
    if found["rows"] and found["rows_truncated"] == found["rows"]:
        fix = f"raise `task.max_length` (now {max_length} tokens) or shorten the rows"
        what = f"all {found['rows']} rows are longer than task.max_length and cut{first}"
        problems.append(Problem(what=what, where="loss-mask audit", fix=fix))
    if problems:
        raise TuneError(problems=problems, code=GATE)


def taught(found: dict[str, Any]) -> str:
    """What is learned of the rows: `40.2% of the tokens are trained`; or the labels with their numbers, the most frequent first."""
    if "taught" in found:
        return str(found["taught"])
    if "labels" not in found:
        return f"{found['share']:.1%} of the tokens are trained"
    shown = [f"{name} {count:,}" for name, count in list(found["labels"].items())[:MOST_LABELS]]
    more = f" and {len(found['labels']) - MOST_LABELS:,} more" if len(found["labels"]) > MOST_LABELS else ""
    return f"labels by {found['labels_of']}: {', '.join(shown)}{more}"


def overlong(found: dict[str, Any]) -> str:
    """What became of rows beyond the maximum: `28 rows are cut, 3 rows are dropped`; `no row is too long`."""
    counts = {"cut": found["rows_truncated"], "split": found.get("rows_split", 0), "dropped": found.get("rows_dropped", 0)}
    return (
        ", ".join(f"{count:,} {'row is' if count == 1 else 'rows are'} {done}" for done, count in counts.items() if count)
        or "no row is too long"
    )


def sizes(train: dict[str, Any]) -> str:
    """How large the rows are: `5 to 90 tokens a row, 31.2 on average`; `images of 224 × 224 pixels`."""
    if pixels := train.get("pixels"):
        return f"images of {'up to ' if train.get('various') else ''}{pixels[1]} × {pixels[0]} pixels"
    length = train["length"]
    return f"{length['min']} to {length['max']} tokens a row, {length['mean']} on average"


def statistics(rows: list[TokenRow], *, beside: Iterable[bytes] | None = None) -> dict[str, Any]:
    """Row count, tokens and lengths, as `data.json` holds them. `beside`: what stands beside each text, so an image, which makes it another
    row."""
    others = (hash(one) for one in beside) if beside is not None else repeat(0, len(rows))
    lengths = np.asarray([len(r.ids) for r in rows])
    return {
        "rows": len(rows),
        "tokens": int(lengths.sum()),
        "supervised_tokens": sum(r.supervised for r in rows),
        "duplicates": len(rows) - len({(hash(r.ids.tobytes()), other) for r, other in zip(rows, others, strict=True)}),
        "length": {
            "min": int(lengths.min()),
            "mean": round(float(lengths.mean()), 1),
            "p50": int(np.percentile(lengths, 50)),
            "p95": int(np.percentile(lengths, 95)),
            "max": int(lengths.max()),
        },
        "histogram": histogram(lengths),
    }


def histogram(lengths: NDArray[np.int64]) -> list[list[int]]:
    """[upper bound in tokens, rows up to it] for equal round steps between the shortest and the longest row."""
    low, high = int(lengths.min()), int(lengths.max())
    step = next(s for s in (base * 10**power for power in range(9) for base in (1, 2, 5)) if -(-high // s) - (low - 1) // s <= MOST_BARS)
    bounds = range((low - 1) // step * step + step, high + step, step)
    return [[bound, int(((lengths > bound - step) & (lengths <= bound)).sum())] for bound in bounds]
