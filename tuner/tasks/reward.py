"""`task: reward`: a number for a conversation, higher for a better answer. A row is `{"prompt": …, "chosen": …, "rejected": …}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled, pairs
from tuner.data.audit import segments
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import PairRows, as_labels, write_pairs
from tuner.errors import TuneError
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.model.adapt import measuring
from tuner.model.endings import Ending, ending_of
from tuner.model.preferences import of_rewards, rewards
from tuner.runs import read_json, write_json
from tuner.train import encoders
from tuner.train import pairs as common
from tuner.train.causal import tokenizer_of

NAMES = ("reward",)
KINDS = ("preference",)
PROBED = 4  # pairs whose loss is compared before saving and after loading
AT_ONCE = 8  # pairs measured in one pass


def _ending(run: Run) -> Ending:
    return ending_of(run.recipe.task, NAMES, tokenizer_of(run).pad_token_id)


def _coded(run: Run, found: labelled.Found, **options: Any) -> common.Pairs:
    return pairs.coded(found.examples, tokenizer_of(run), run.recipe.task.max_length, **options)


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Both conversations of each row rendered and tokenized; audit; write what can teach."""
    found = labelled.read(run, rows, KINDS)
    with run.progress("rows prepared", len(found.examples)) as tick:
        coded = _coded(run, found, tick=tick)
    common.write(run, found, coded, tokenizer_of(run), folder)
    write_json(folder / "data.json", read_json(folder / "data.json") | {"labels": list(NAMES)})


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: the better conversation, then the worse one."""
    ((better, worse),) = _coded(run, labelled.read(run, rows[index : index + 1], KINDS))
    shown = [*segments(better, tokenizer_of(run)), {"text": "\n── rather than ──\n", "trained": False}, *segments(worse, tokenizer_of(run))]
    counts = {"tokens": len(better.ids) + len(worse.ids), "supervised_tokens": None}
    return {"place": rows.place(index), "source": "", **counts, "truncated": better.truncated or worse.truncated, "segments": shown}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and something of both answers is within the length."""
    common.some_teach(_coded(run, labelled.read(run, rows[: run.recipe.eval.limit], KINDS)), run.recipe.task.max_length)


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    if tokenizer_of(run).pad_token_id is None:
        raise TuneError("the tokenizer has no token to pad with, and none to end a text", "model.id", "choose another model")
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def written(folder: Path) -> None:
        write_pairs(folder, list(filter(pairs.teaches, _coded(run, labelled.read(run, held_out(run), KINDS)))))

    options: dict[str, Any] = {"tokenizer": tokenizer_of(run), "padding_free": False, "compares": False, "held_out": written}
    return common.trainer(run, model, args, prepared, callbacks, objective=of_rewards(tokenizer_of(run)), **options)


@torch.no_grad()
def _rewards(run: Run, model: nn.Module, items: list[dict[str, Any]]) -> list[tuple[float, float]]:
    """Of each pair the numbers of both conversations."""
    batch = of_rewards(tokenizer_of(run)).collate(items)
    found = rewards(measuring(model), {name: batch[name].to(run.device) for name in ("input_ids", "attention_mask")})
    return [(float(a), float(b)) for a, b in found.reshape(-1, 2).tolist()]


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared pairs."""
    rows = PairRows(run.stage_folder("prepare"))
    found = _rewards(run, model, [rows[index] for index in range(min(PROBED, len(rows)))])
    return _loss(found) / len(found)


def _loss(found: list[tuple[float, float]]) -> float:
    better, worse = torch.tensor(found).unbind(1)
    return float(-logsigmoid(better - worse).sum())


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Which answer of every held-out row gets the higher number, and by how much."""
    found = labelled.read(run, rows[: run.recipe.eval.limit], KINDS)
    coded, scored, given = _coded(run, found), list[Scored](), list[tuple[float, float]]()
    with run.progress("held-out pairs", len(coded)) as tick:
        for first in range(0, len(coded), AT_ONCE):
            items = [{"rows": [as_labels(row.ids, row.trained) for row in pair]} for pair in coded[first : first + AT_ONCE]]
            given += _rewards(run, model, items)
            tick(len(given))
    for example, (better, worse), pair in zip(found.examples, given, coded, strict=True):
        one = Scored(prompt=example["prompt"], reference="", tools=example["tools"])
        one.weighed = pairs.weighed(example, {"chosen": better, "rejected": worse})
        if pairs.teaches(pair):
            one.loss_sum, one.tokens = _loss([(better, worse)]), 1
            one.scores = {"preference_accuracy": float(better > worse), "margin": better - worse}
        scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss, a pair."""
    return {"loss": mean_loss}


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with the head, or all) and tokenizer with its chat template."""
    encoders.save(run, model, folder, tokenizer_of(run))
