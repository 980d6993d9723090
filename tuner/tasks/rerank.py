"""`task: rerank`: how well a passage fits a query. A row is `{"query": …, "passage": …, "label": 1}`, or has `positive` and `negative`."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled, ranked
from tuner.data.audit import statistics
from tuner.data.labelled import Found, LabelRow
from tuner.data.load import Rows
from tuner.data.ranked import Pair
from tuner.data.splits import split
from tuner.data.store import LabelRows, write_labelled
from tuner.eval.labels import correlation, predict
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.eval.search import FITS, correlated, reordered
from tuner.model.endings import Ending, ending_of
from tuner.model.objectives import Objective
from tuner.model.ranking import lay_out, of_pairs
from tuner.schema.data import Overlong
from tuner.schema.passages import Rerank
from tuner.train import encoders
from tuner.train import labelled as common
from tuner.train.encoders import tokenizer_of

NAMES = ("score",)
COLUMNS = "query: …, passage: …, label: …"
KINDS = ("labelled", "related")


def _task(run: Run) -> Rerank:
    assert isinstance(run.recipe.task, Rerank)
    return run.recipe.task


def _ending(run: Run) -> Ending:
    return ending_of(_task(run), NAMES, tokenizer_of(run).pad_token_id)


def _objective(run: Run, lengths: Any = None) -> Objective:
    return of_pairs(tokenizer_of(run), lengths=lengths)


def _pairs(run: Run, rows: Rows) -> tuple[Found, list[Pair]]:
    found, pairs = labelled.numbered(labelled.read(run, rows, KINDS, asks=COLUMNS), ranked.pairs_of, run, fix="mend or remove this row")
    return ranked.unfolded(found, pairs), [pair for row in pairs for pair in row]


def _rows(run: Run, rows: Rows) -> tuple[Found, list[Pair], list[LabelRow]]:
    found, pairs = _pairs(run, rows)
    labels = [np.asarray([label], np.float32) for *_, label in pairs]
    with run.progress("passages prepared", len(pairs)) as tick:
        return found, pairs, list(labelled.encoded(found, labels, tokenizer_of(run), _task(run).max_length, tick=tick))


def _graded(run: Run) -> bool:
    """Whether the training rows say how well a passage fits, not only whether."""
    found: bool = run.keep("graded", lambda: ranked.graded(_pairs(run, split(run)[0])[1]))
    return found


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Queries and passages to tokens; audit; write what can teach."""
    found, pairs, coded = _rows(run, rows)
    kept = [row for row in coded if not row.truncated] if run.recipe.data.overlong is Overlong.drop else coded
    left = [pairs[row.index or 0] for row in kept]
    sample = _segments(pairs[0])
    audited = labelled.audit(kept, found, ranked.counts(left), sample, "passage") | {"rows_dropped": len(coded) - len(kept)}
    labelled.gate(audited, max_length=_task(run).max_length)
    write_labelled(folder, kept)
    encoders.noted(run, found, audited, statistics(list(kept)), folder, labels=list(NAMES))


def _segments(pair: Pair) -> list[dict[str, Any]]:
    query, passage, label = pair
    return [{"text": f"{query} · {passage} → ", "trained": False}, {"text": f"{label:g}\n", "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: each passage, and how well it fits."""
    _, pairs, coded = _rows(run, rows[index : index + 1])
    counts = {"tokens": sum(len(row.ids) for row in coded), "supervised_tokens": None, "truncated": any(row.truncated for row in coded)}
    return {"place": rows.place(index), "source": "", **counts, "segments": [part for pair in pairs for part in _segments(pair)]}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and labels are numbers from 0 to 1."""
    _pairs(run, rows[: run.recipe.eval.limit])


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    learned = partial(_objective, run)
    return common.trainer(run, model, args, prepared, callbacks, learned=learned, measured=lambda rows: _rows(run, rows)[2])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared pairs."""
    return common.probe_of(run, model, LabelRows(run.stage_folder("prepare")), _objective(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Of each query of the held-out rows: in which order its passages come, and what the numbers of all of them are worth."""
    _, pairs, coded = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out passages", len(coded)) as tick:
        predicted = predict(model, coded, _objective(run), tick=tick)
    said = [1 / (1 + float(np.exp(-logits[0]))) for logits, _, _ in predicted]
    each = [Scored(prompt=[], reference="", loss_sum=loss, tokens=count) for _, loss, count in predicted]
    if _graded(run):
        correlated(each, said, [label for *_, label in pairs])
    for one, number, (*_, label) in zip(each, said, pairs, strict=True) if not _graded(run) else ():
        one.counts = {"right": float((number >= FITS) == (label >= FITS))}
    queries = defaultdict[str, list[int]](list)
    for index, (query, *_) in enumerate(pairs):
        queries[query].append(index)
    return [_of_query([pairs[i] for i in mine], [said[i] for i in mine], [each[i] for i in mine]) for mine in queries.values()]


def _of_query(pairs: Sequence[Pair], said: Sequence[float], each: Sequence[Scored]) -> Scored:
    """A query with all its passages. An order is measured where there is one to find."""
    query, labels = pairs[0][0], [label for *_, label in pairs]
    order, scores = reordered(labels, said)
    one = Scored(prompt=[{"role": "user", "content": query}], reference=pairs[int(np.argmax(labels))][1], answer=pairs[order[0]][1])
    if len(pairs) == 1:
        one.prompt[0]["content"], one.reference, one.answer = f"{query} · {pairs[0][1]}", f"{labels[0]:g}", f"{said[0]:.3f}"
    one.loss_sum, one.tokens = sum(e.loss_sum for e in each), sum(e.tokens for e in each)
    one.counts = dict(sum((Counter(e.counts) for e in each), Counter[str]()))
    one.scores = scores if len(set(labels)) > 1 and max(labels) >= FITS else {}
    return one


def formulas(run: Run) -> dict[str, Formula]:
    """Loss; the share of passages told right, or correlations of grades."""
    if _graded(run):
        return {"loss": mean_loss, "spearman": correlation("rank"), "pearson": correlation("value")}
    return {"loss": mean_loss, "accuracy": lambda sums: sums.get("right", 0.0) / sums["tokens"]}


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with its head, or all) and tokenizer, laid out as a CrossEncoder of sentence-transformers."""
    encoders.save(run, model, folder)
    lay_out(folder, _task(run).max_length)
