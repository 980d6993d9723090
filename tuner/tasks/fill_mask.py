"""`task: fill_mask`: words that are hidden in a text, as BERT learns them. A row is `{"text": …}`, or a line of a text file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audit import statistics
from tuner.data.labelled import Found, LabelRow
from tuner.data.load import Rows
from tuner.data.store import IGNORE, LabelRows, write_labelled
from tuner.errors import GATE, TuneError
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.model.endings import Ending
from tuner.model.masking import hidden, of_masks
from tuner.model.objectives import Objective, logits_of
from tuner.schema.adapter import Full
from tuner.schema.data import Overlong
from tuner.schema.task import FillMask
from tuner.train import encoders
from tuner.train import labelled as common
from tuner.train.encoders import save, tokenizer_of

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
END = Ending(head="masked")
PROBED = 8  # rows whose loss is compared before saving and after loading
AT_ONCE = 2048  # tokens whose outputs, one for each word that is known, are held


def _task(run: Run) -> FillMask:
    assert isinstance(run.recipe.task, FillMask)
    return run.recipe.task


def _objective(run: Run, lengths: Any = None) -> Objective:
    return of_masks(tokenizer_of(run), _task(run).mlm_probability, lengths=lengths)


def _rows(run: Run, rows: Rows) -> tuple[Found, list[LabelRow]]:
    """Texts as tokens; the label of each is itself, but for what the tokenizer adds."""
    found, tokenizer = labelled.read(run, rows, ("text",)), tokenizer_of(run)
    coded = list(labelled.encoded(found, [0] * len(found.examples), tokenizer, _task(run).max_length))
    special = np.asarray(tokenizer.all_special_ids)
    for row in coded:
        row.label = np.where(np.isin(row.ids, special), IGNORE, row.ids).astype(np.int64)
        row.trained = row.label != IGNORE
    return found, coded


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens; audit; write what can teach."""
    found, coded = _rows(run, rows)
    whole = [row for row in coded if not row.truncated] if run.recipe.data.overlong is Overlong.drop else coded
    kept = [row for row in whole if row.trained.any()]
    if not kept:
        what = f"no row has a word within task.max_length ({_task(run).max_length} tokens); the first: {found.places[0]}"
        raise TuneError(what, "text audit", "raise `task.max_length`, or look at `data.columns`", code=GATE)
    words = sum(row.supervised for row in kept)
    audited: dict[str, Any] = {
        "rows": len(whole),
        "tokens": sum(len(row.ids) for row in whole),
        "supervised_tokens": words,
        "rows_fully_masked": len(whole) - len(kept),
        "rows_truncated": sum(row.truncated for row in whole),
        "rows_dropped": len(coded) - len(whole),
        "labels": {"may be hidden": words, "hidden in a pass, about": round(words * _task(run).mlm_probability)},
        "labels_of": "token",
        "sample": _segments(run, kept[0]),
    }
    write_labelled(folder, kept)
    encoders.noted(run, found, audited, statistics(list(kept)), folder)


def _segments(run: Run, row: LabelRow) -> list[dict[str, Any]]:
    """The row as it is when measured: hidden tokens, each with what it was."""
    tokenizer, segments = tokenizer_of(run), list[dict[str, Any]]()
    batch = hidden(_batch(run, [row]), tokenizer, _task(run).mlm_probability, fixed=True)
    for seen, true in zip(batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), strict=True):
        text, wanted = str(tokenizer.decode([seen])), true != IGNORE
        segments.append({"text": f"{text} → {tokenizer.decode([true])} " if wanted else f"{text} ", "trained": wanted})
    return segments


def _batch(run: Run, rows: Sequence[LabelRow]) -> dict[str, Any]:
    found = _objective(run).collate([{"rows": [row.item]} for row in rows])
    return {name: value.to(run.device) for name, value in found.items() if name != "filler"}


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model may see it."""
    _, (row,) = _rows(run, rows[index : index + 1])
    counts = {"tokens": len(row.ids), "supervised_tokens": None, "truncated": row.truncated}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, row)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are texts, and have words."""
    _, coded = _rows(run, rows[: run.recipe.eval.limit])
    if not any(row.trained.any() for row in coded):
        raise TuneError("no held-out row has a word", "data", "hold out others", code=GATE)


def possible(run: Run) -> None:
    """The adapter fits the model, and its tokenizer has a mask."""
    if tokenizer_of(run).mask_token_id is None:
        raise TuneError("the model's tokenizer has no mask token: it never learned to fill in", "model.id", "choose a BERT-like model")
    encoders.possible(run, END)


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result over a fresh base. Raises TuneError where only a new head could be adapted."""
    found: Any = encoders.load(run, END, trainable=trainable, tuned=tuned)
    base: Any = found.get_base_model() if isinstance(found, PeftModel) else found
    if tuned is None and (new := base.new_modules):
        if not isinstance(run.recipe.adapter, Full):
            what = f"the model comes without the part that fills in ({', '.join(new)}), which an adapter does not hold"
            raise TuneError(what, "adapter", "use `adapter=full`, or a base that has it")
        run.tell(f"the model comes without the part that fills in ({', '.join(new)}): it begins by chance")
    return cast(nn.Module, found)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    learned = partial(_objective, run)
    return common.trainer(run, model, args, prepared, callbacks, learned=learned, measured=lambda rows: _rows(run, rows)[1])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows, under their fixed masks."""
    return common.probe_of(run, model, LabelRows(run.stage_folder("prepare")), _objective(run))


@torch.no_grad()
def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """What is filled in where tokens of the held-out rows are hidden: of each row always the same ones."""
    _, coded = _rows(run, rows[: run.recipe.eval.limit])
    order = sorted(range(len(coded)), key=lambda i: -len(coded[i].ids))
    scored, done = dict[int, Scored](), 0
    model.eval()
    with run.progress("held-out rows", len(coded)) as tick:
        while done < len(order):
            chosen = order[done : done + max(1, AT_ONCE // len(coded[order[done]].ids))]
            batch = hidden(_batch(run, [coded[i] for i in chosen]), tokenizer_of(run), _task(run).mlm_probability, fixed=True)
            logits = logits_of(model, batch)
            for place, index in enumerate(chosen):
                there = batch["labels"][place] != IGNORE
                scored[index] = _scored(
                    run, batch["input_ids"][place, : len(coded[index].ids)], batch["labels"][place][there], logits[place][there]
                )
            done += len(chosen)
            tick(done)
    return [scored[index] for index in range(len(coded))]


def _scored(run: Run, seen: torch.Tensor, true: torch.Tensor, logits: torch.Tensor) -> Scored:
    said, tokenizer = logits.argmax(-1), tokenizer_of(run)
    loss = torch.nn.functional.cross_entropy(logits, true, reduction="sum") if len(true) else torch.zeros(())
    text, wanted, answer = (str(tokenizer.decode(ids.tolist())) for ids in (seen, true, said))
    counts = {"right": float((said == true).sum())}
    prompt = [{"role": "user", "content": text}]
    return Scored(prompt=prompt, reference=wanted, answer=answer, loss_sum=float(loss), tokens=len(true), counts=counts)


def formulas(run: Run) -> dict[str, Formula]:
    """Loss, perplexity, and the share of hidden tokens that are found."""
    return {"masked_accuracy": lambda sums: sums["right"] / np.maximum(sums["tokens"], 1), **TEXT}
