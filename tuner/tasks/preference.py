"""`task: dpo`, `simpo`, `cpo`, `orpo`: which of two answers is better. A row is `{"prompt": …, "chosen": …, "rejected": …}`."""

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
from tuner.eval.loss import row_losses, token_loss
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.model.preferences import of_pairs
from tuner.schema.preferences import Preferring
from tuner.train import causal
from tuner.train import pairs as common
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # pairs whose loss is compared before saving and after loading
KINDS = ("preference",)


def _task(run: Run) -> Preferring:
    assert isinstance(run.recipe.task, Preferring)
    return run.recipe.task


def _coded(run: Run, found: labelled.Found, **options: Any) -> common.Pairs:
    return pairs.coded(found.examples, tokenizer_of(run), _task(run).max_length, **options)


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Both conversations of each row rendered, tokenized and masked; audit; write what can teach."""
    found = labelled.read(run, rows, KINDS)
    with run.progress("rows prepared", len(found.examples)) as tick:
        coded = _coded(run, found, tick=tick)
    common.write(run, found, coded, tokenizer_of(run), folder)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: the better answer in its conversation, then the worse one."""
    ((better, worse),) = _coded(run, labelled.read(run, rows[index : index + 1], KINDS))
    shown = [*segments(better, tokenizer_of(run)), {"text": "\n── rather than ──\n", "trained": False}, *segments(worse, tokenizer_of(run))]
    counts = {"tokens": len(better.ids) + len(worse.ids), "supervised_tokens": better.supervised + worse.supervised}
    return {"place": rows.place(index), "source": "", **counts, "truncated": better.truncated or worse.truncated, "segments": shown}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and something of both answers is within the length."""
    common.some_teach(_coded(run, labelled.read(run, rows[: run.recipe.eval.limit], KINDS)), _task(run).max_length)


def possible(run: Run) -> None:
    """The adapter fits the model, as far as its configuration tells."""
    causal.possible(run)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def written(folder: Path) -> None:
        write_pairs(folder, list(filter(pairs.teaches, _coded(run, labelled.read(run, held_out(run), KINDS)))))

    free = padding_free(run, model, packing=False)
    learned = of_pairs(_task(run), tokenizer_of(run), padding_free=free)
    options: dict[str, Any] = {"tokenizer": tokenizer_of(run), "padding_free": free, "compares": _task(run).reference, "held_out": written}
    return common.trainer(run, model, args, prepared, callbacks, objective=learned, **options)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared answers."""
    return token_loss(model, PairRows(run.stage_folder("prepare")).talks.first(2 * PROBED))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Which answer of every held-out row is likelier (by token, where the loss goes by tokens), and by how much."""
    found = labelled.read(run, rows[: run.recipe.eval.limit], KINDS)
    coded = _coded(run, found)
    with run.progress("held-out answers", 2 * len(coded)) as tick:
        losses = row_losses(model, [row for pair in coded for row in pair], tick=tick)
    scored = []
    for example, pair, better, worse in zip(found.examples, coded, losses[::2], losses[1::2], strict=True):
        one = Scored(prompt=example["prompt"], reference="", tools=example["tools"])
        one.loss_sum, one.tokens = better
        said = [-total / (max(1, count) if _task(run).by_token else 1) for total, count in (better, worse)]
        one.weighed = pairs.weighed(example, {"chosen": said[0], "rejected": said[1]})
        if pairs.teaches(pair):
            one.scores = {"preference_accuracy": float(said[0] > said[1]), "margin": said[0] - said[1]}
        scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss of the better answers: what is preferred should stay likely."""
    return {"chosen_loss": mean_loss}
