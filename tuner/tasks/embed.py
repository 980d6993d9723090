"""`task: embed`: vectors that are near for what belongs together. A row is `{"anchor": …, "positive": …}`, or two texts and a `score`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled, related
from tuner.data.audit import statistics
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.related import RelatedRow, TextRows
from tuner.data.splits import held_out, split
from tuner.errors import GATE, TuneError
from tuner.eval.labels import correlation
from tuner.eval.scores import Formula, Scored
from tuner.eval.search import correlated, ranked
from tuner.model.adapt import measuring
from tuner.model.embeddings import encode, lay_out, mined, of_likeness, pooler
from tuner.model.endings import Ending
from tuner.model.load import load_config
from tuner.model.objectives import Objective
from tuner.schema.data import Overlong
from tuner.schema.task import Embed
from tuner.train import encoders
from tuner.train.encoders import tokenizer_of

END = Ending(head="embedding")
KINDS = ("related", "labelled")
PROBED = 8  # rows whose loss is compared before saving and after loading


def _task(run: Run) -> Embed:
    assert isinstance(run.recipe.task, Embed)
    return run.recipe.task


def _pooling(run: Run) -> nn.Module:
    def make() -> nn.Module:
        return pooler(run.recipe.model, load_config(run.recipe.model, progress=run.tell), _task(run), progress=run.tell)

    found: nn.Module = run.keep("pooling", make)
    return found


def _scored(run: Run) -> bool:
    """Whether rows say how alike their texts are; else they say what belongs together."""
    found: bool = run.keep("scored", lambda: labelled.read(run, split(run)[0][:1], KINDS).layouts[0].kind == "labelled")
    return found


def _objective(run: Run, lengths: Any = None) -> Objective:
    return of_likeness(_task(run), _pooling(run), tokenizer_of(run), scored=_scored(run), lengths=lengths)


def _read(run: Run, rows: Rows) -> tuple[Found, list[float]]:
    return labelled.numbered(labelled.read(run, rows, KINDS), related.number, run, fix=labelled.MEND)


def _coded(run: Run, found: Found, numbers: list[float], *, tick: Callable[[int], None] = lambda done: None) -> list[RelatedRow]:
    return list(related.coded(found.examples, numbers, tokenizer_of(run), _task(run).max_length, tick=tick))


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens, negatives found where asked for; audit; write what can teach."""
    found, numbers = _read(run, rows)
    if _task(run).hard_negatives and not _scored(run):
        _add_negatives(run, found)
    with run.progress("rows prepared", len(numbers)) as tick:
        coded = _coded(run, found, numbers, tick=tick)
    kept = [row for row in coded if not row.truncated] if run.recipe.data.overlong is Overlong.drop else coded
    if len(kept) < 2 or (_scored(run) and len({row.label for row in kept}) == 1):
        what = "all rows say the same likeness: there is nothing to tell apart" if len(kept) > 1 else f"{len(kept)} rows are left"
        raise TuneError(what, "likeness audit", "look at `data.columns` and `task.max_length`", code=GATE)
    audited = related.audit(kept, found.examples[0], scored=_scored(run)) | {"rows_dropped": len(coded) - len(kept)}
    related.write_related(folder, kept)
    encoders.noted(run, found, audited, statistics([related.as_one(row) for row in kept]), folder)


def _add_negatives(run: Run, found: Found) -> None:
    """To each row texts of others that the base finds near."""
    run.tell(f"looking for {_task(run).hard_negatives} hard negatives a row, by the base model")
    model = measuring(encoders.load(run, END, trainable=False, tuned=None))
    anchors, positives = ([example[name] for example in found.examples] for name in ("anchor", "positive"))
    negatives = mined(partial(_encode, run, model), anchors, positives, _task(run).hard_negatives)
    for example, more in zip(found.examples, negatives, strict=True):
        example["negatives"] = [*example["negatives"], *more]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it."""
    found, numbers = _read(run, rows[index : index + 1])
    (row,) = _coded(run, found, numbers)
    counts = {"tokens": sum(map(len, row.texts)), "supervised_tokens": None, "truncated": row.truncated}
    return {"place": rows.place(index), "source": "", **counts, "segments": related.segments(found.examples[0])}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the training rows are, and sentence-transformers is here."""
    _pooling(run)
    found, numbers = _read(run, rows[: run.recipe.eval.limit])
    if (found.layouts[0].kind == "labelled") is not _scored(run):
        raise TuneError(
            f"the held-out rows are laid out as {found.layouts[0]}, the training rows are not", found.places[0], "lay both out alike"
        )
    if _scored(run) and len(set(numbers)) == 1:
        raise TuneError("all held-out rows say the same likeness: there is no order to find", found.places[0], "hold out others")


def possible(run: Run) -> None:
    """The adapter fits the model; vectors are as long as they are to be."""
    encoders.possible(run, END)
    size = load_config(run.recipe.model, progress=run.tell).get_text_config().hidden_size
    if beyond := [n for n in _task(run).matryoshka_dims if n > size]:
        raise TuneError(f"the model's vectors have {size} numbers, and {beyond[0]} are asked for", "task.matryoshka_dims", "take fewer")


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, END, trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def written(folder: Path) -> TextRows:
        if run.leads:
            related.write_related(folder, _coded(run, *_read(run, held_out(run))))
        return TextRows(folder)

    _pooling(run).to(run.device)
    return encoders.trainer(run, model, args, callbacks, rows=TextRows(prepared), objective=partial(_objective, run), written=written)


@torch.no_grad()
def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    rows, wanted = TextRows(run.stage_folder("prepare")), _objective(run)
    batch = wanted.collate([rows[index] for index in range(min(PROBED, len(rows)))])
    batch = {name: value.to(run.device) for name, value in batch.items() if name != "filler"}
    return float(wanted.loss(measuring(model), batch, 0.0) / wanted.count(batch).clamp(min=1))


def _encode(run: Run, model: nn.Module, texts: Sequence[str], *, tick: Callable[[int], None] = lambda done: None) -> Any:
    """Vectors of texts [texts, size]."""
    return encode(model, texts, _pooling(run).to(run.device), tokenizer_of(run), _task(run).max_length, tick=tick)


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """How near the two texts of each held-out row are; or at which place, among all held-out texts, the right one is found."""
    found, numbers = _read(run, rows[: run.recipe.eval.limit])
    texts = [related.texts_of(example) for example in found.examples]
    flat = list(dict.fromkeys(text for row in texts for text in row))
    with run.progress("held-out texts", len(flat)) as tick:
        table = _encode(run, model, flat, tick=tick)
    place = {text: index for index, text in enumerate(flat)}
    sizes = {"": table.shape[1]} | _cuts(run)
    scored = [_one(row, number if _scored(run) else None) for row, number in zip(texts, numbers, strict=True)]
    first = np.asarray([place[row[0]] for row in texts])
    for name, size in sizes.items():
        cut = table[:, :size] / np.linalg.norm(table[:, :size], axis=1, keepdims=True).clip(1e-12)
        if _scored(run):
            near = (cut[first] * cut[[place[row[1]] for row in texts]]).sum(1)
            correlated(scored, near.tolist(), numbers, name)
            for one, value in zip(scored, near.tolist(), strict=True) if not name else ():
                one.answer = f"{value:.3f}"
        else:
            ranked(scored, cut, first, texts, place, name)
    return scored


def _one(texts: Sequence[str], likeness: float | None) -> Scored:
    """A held-out row: two texts and how alike they are, or what is asked and what is right."""
    prompt, reference = (" · ".join(texts[:2]), f"{likeness:g}") if likeness is not None else texts[:2]
    return Scored(prompt=[{"role": "user", "content": prompt}], reference=reference, tokens=1)


def _cuts(run: Run) -> dict[str, int]:
    """Lengths at which vectors are measured too, when cut off there: `@64`."""
    whole = load_config(run.recipe.model, progress=run.tell).get_text_config().hidden_size
    return {f"@{size}": size for size in _task(run).matryoshka_dims if size < whole}


def formulas(run: Run) -> dict[str, Formula]:
    """Correlations of likeness, at each length of vectors; where rows are searched for, each has scores of its own."""
    if not _scored(run):
        return {}
    names = ["", *_cuts(run)]
    return {f"spearman{name}": correlation(f"rank{name}") for name in names} | {"pearson": correlation("value")}


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter, or all) and tokenizer, laid out as a model of sentence-transformers."""
    encoders.save(run, model, folder)
    lay_out(folder, _pooling(run), _task(run).max_length)
