"""`task: kto`: single answers that were liked or not. A row is `{"prompt": …, "completion": …, "label": true}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled, pairs
from tuner.data.audit import segments
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import PairRows, write_pairs
from tuner.errors import GATE, TuneError
from tuner.eval.loss import row_losses, token_loss
from tuner.eval.scores import Formula, Scored, Sums
from tuner.model.preferences import of_pairs
from tuner.schema.data import RowShape
from tuner.schema.preferences import Kto
from tuner.train import causal
from tuner.train import pairs as common
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # answers whose loss is compared before saving and after loading


def _task(run: Run) -> Kto:
    assert isinstance(run.recipe.task, Kto)
    return run.recipe.task


def _read(run: Run, rows: Rows) -> labelled.Found:
    return labelled.read(run, rows, ("unpaired",), shape=RowShape.unpaired_preference)


def _coded(run: Run, found: labelled.Found, **options: Any) -> common.Pairs:
    return pairs.with_mismatched(found.examples, tokenizer_of(run), _task(run).max_length, **options)


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Each answer in its conversation, and the next row's answer in the same; audit; write what can teach."""
    found = _read(run, rows)
    liked = [bool(example["label"]) for example in found.examples]
    if len(set(liked)) == 1:
        what = f"every answer was {'liked' if liked[0] else 'disliked'}: there is nothing to tell apart"
        fix = "look at the column `label`; answers that are all good are learned by `task=sft`"
        raise TuneError(what, found.places[0], fix, code=GATE)
    with run.progress("rows prepared", len(liked)) as tick:
        coded = _coded(run, found, tick=tick)
    common.write(run, found, coded, tokenizer_of(run), folder, liked=liked)
    run.tell(f"{sum(liked):,} answers were liked, {len(liked) - sum(liked):,} were not")


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it, and whether it was liked."""
    found = _read(run, rows[index : index + 1])
    ((row, _),) = _coded(run, found)
    said = "\n── liked ──\n" if found.examples[0]["label"] else "\n── not liked ──\n"
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    shown = [*segments(row, tokenizer_of(run)), {"text": said, "trained": False}]
    return {"place": rows.place(index), "source": "", **counts, "segments": shown}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and something of the answers is within the length."""
    common.some_teach(_coded(run, _read(run, rows[: run.recipe.eval.limit])), _task(run).max_length)


def possible(run: Run) -> None:
    """The adapter fits the model, as far as its configuration tells."""
    causal.possible(run)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def written(folder: Path) -> None:
        found = _read(run, held_out(run))
        kept = [(pair, bool(e["label"])) for pair, e in zip(_coded(run, found), found.examples, strict=True) if pairs.teaches(pair)]
        write_pairs(folder, [pair for pair, _ in kept], [liked for _, liked in kept])

    free = padding_free(run, model, packing=False)
    learned = of_pairs(_task(run), tokenizer_of(run), padding_free=free)
    options: dict[str, Any] = {"tokenizer": tokenizer_of(run), "padding_free": free, "compares": True, "held_out": written}
    return common.trainer(run, model, args, prepared, callbacks, objective=learned, **options)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared answers."""
    return token_loss(model, PairRows(run.stage_folder("prepare")).talks.first(2 * PROBED))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """How likely each held-out answer is."""
    found = _read(run, rows[: run.recipe.eval.limit])
    coded = [row for row, _ in _coded(run, found)]
    with run.progress("held-out answers", len(coded)) as tick:
        losses = row_losses(model, coded, tick=tick)
    scored = []
    for example, (loss, tokens) in zip(found.examples, losses, strict=True):
        name = "liked" if example["label"] else "disliked"
        one = Scored(prompt=example["prompt"], reference="", tools=example["tools"], loss_sum=loss, tokens=tokens)
        one.liked, one.weighed = bool(example["label"]), pairs.weighed(example | {name: example["completion"]}, {name: -loss})
        one.counts = {f"{name}_loss": loss, f"{name}_tokens": float(tokens)}
        scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """By how much liked answers are likelier than others (nats a token), and the loss of the liked ones."""
    return {"margin": lambda sums: _mean(sums, "disliked") - _mean(sums, "liked"), "chosen_loss": lambda sums: _mean(sums, "liked")}


def _mean(sums: Sums, name: str) -> Any:
    """Nats a token; 0 of no answers."""
    return sums.get(f"{name}_loss", 0.0) / (sums.get(f"{name}_tokens", 0.0) + 1e-9)
