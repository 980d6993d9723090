"""`task: dpo`, `simpo`, `cpo`, `orpo`: which of two answers is better. A row is `{"prompt": …, "chosen": …, "rejected": …}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled, pairs
from tuner.data.audit import audit, gate, segments, statistics
from tuner.data.chat import end_of_turn
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import PairRows, write_pairs
from tuner.errors import GATE, TuneError
from tuner.eval.loss import row_losses
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.model.adapt import measuring
from tuner.model.preferences import answers, of_pairs
from tuner.schema.data import Overlong
from tuner.schema.debug import Overfit
from tuner.schema.task import Preferring
from tuner.train import causal, encoders
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.padding import padding_free
from tuner.train.together import wait
from tuner.train.trainer import TokenTrainer

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # pairs whose loss is compared before saving and after loading
KINDS = ("preference",)
AT_ONCE = 4  # pairs of which the log-probabilities are looked at before training


def _task(run: Run) -> Preferring:
    assert isinstance(run.recipe.task, Preferring)
    return run.recipe.task


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Both conversations of each row rendered, tokenized and masked; audit; write what can teach."""
    tokenizer = tokenizer_of(run)
    found = labelled.read(run, rows, KINDS)
    with run.progress("rows prepared", len(found.examples)) as tick:
        coded = pairs.coded(found.examples, tokenizer, _task(run).max_length, tick=tick)
    drop = run.recipe.data.overlong is Overlong.drop
    whole = [pair for pair in coded if not drop or not any(row.truncated for row in pair)]
    audited = audit([row for pair in whole for row in pair], tokenizer, end_of_turn=end_of_turn(tokenizer))
    audited |= {"rows_dropped": len(coded) - len(whole), "first": found.places[0], "conversations": 2 * len(coded)}
    gate(audited, max_length=_task(run).max_length)
    kept = [pair for pair in whole if pairs.teaches(pair)]
    if not kept:
        what = f"no row has two different answers within {_task(run).max_length} tokens; the first: {found.places[0]}"
        raise TuneError(what, "loss-mask audit", "raise `task.max_length`, or look at `data.columns`", code=GATE)
    run.tell(f"{len(coded) - len(kept):,} of {len(coded):,} rows are left out: their answers are cut off, or alike") if len(kept) < len(
        coded
    ) else None
    write_pairs(folder, kept)
    train = statistics([row for pair in kept for row in pair]) | {"rows": len(kept)}
    encoders.noted(run, found, audited, train, folder, system=None)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: the better answer in its conversation, then the worse one."""
    found = labelled.read(run, rows[index : index + 1], KINDS)
    ((better, worse),) = pairs.coded(found.examples, tokenizer_of(run), _task(run).max_length)
    shown = [*segments(better, tokenizer_of(run)), {"text": "\n── rather than ──\n", "trained": False}, *segments(worse, tokenizer_of(run))]
    counts = {"tokens": len(better.ids) + len(worse.ids), "supervised_tokens": better.supervised + worse.supervised}
    return {"place": rows.place(index), "source": "", **counts, "truncated": better.truncated or worse.truncated, "segments": shown}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and something of both answers is within the length."""
    found = labelled.read(run, rows[: run.recipe.eval.limit], KINDS)
    if not any(map(pairs.teaches, pairs.coded(found.examples, tokenizer_of(run), _task(run).max_length))):
        what = f"no held-out row has two different answers within {_task(run).max_length} tokens"
        raise TuneError(what, "task.max_length", "raise it, or shorten the rows", code=GATE)


def possible(run: Run) -> None:
    """The adapter fits the model, as far as its configuration tells."""
    causal.possible(run)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer over pairs; with what the model says of them before training, where the loss is against that."""
    free = padding_free(run, model, packing=False)
    learned = of_pairs(_task(run), tokenizer_of(run), padding_free=free)
    rows = PairRows(prepared, reference=_before(run, model, args, PairRows(prepared), run.folder / "reference.npy", free))
    validation = None
    if run.recipe.trainer.eval_steps:
        folder = run.folder / "validation"
        if run.leads:
            found = labelled.read(run, held_out(run), KINDS)
            write_pairs(folder, filter(pairs.teaches, pairs.coded(found.examples, tokenizer_of(run), _task(run).max_length)))
        wait()
        validation = PairRows(folder, reference=_before(run, model, args, PairRows(folder), folder / "reference.npy", free))
    chosen: Any = rows
    if isinstance(run.recipe.debug, Overfit):
        chosen = Subset(rows, range(min(run.recipe.trainer.batch_size, len(rows))))
    return TokenTrainer(
        model=model,
        args=args,
        adapter=run.recipe.adapter,
        optim=run.recipe.trainer.optim,
        rows=chosen,
        eval_rows=validation,
        tokenizer=tokenizer_of(run),
        padding_free=free,
        callbacks=callbacks,
        tell=run.tell,
        objective=learned,
    )


@torch.no_grad()
def _before(run: Run, model: Any, args: TrainingArguments, rows: PairRows, path: Path, free: bool) -> np.ndarray[Any, Any] | None:
    """Log-probabilities of each pair's answers before training [pairs, 2], as training computes them; None where the loss asks for none.

    Made once, by the leader, before the first step: kept beside the run, so that a resumed training compares with the same.
    """
    if not _task(run).reference:
        return None
    if run.leads and not path.is_file():
        collate, found = of_pairs(_task(run), tokenizer_of(run), padding_free=free).collate, []
        half = torch.bfloat16 if args.bf16 else torch.float16
        with (
            run.progress("answers before training", len(rows)) as tick,
            torch.autocast(run.device.type, half, enabled=args.bf16 or args.fp16),
        ):
            for first in range(0, len(rows), AT_ONCE):
                batch = collate([rows[i] for i in range(first, min(first + AT_ONCE, len(rows)))])
                batch.pop("filler")
                on_device = {name: value.to(run.device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
                found.append(answers(measuring(model), on_device)[0].float().cpu().reshape(-1, 2).numpy())
                tick(min(first + AT_ONCE, len(rows)))
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial.npy")
        np.save(beside, np.concatenate(found))
        beside.replace(path)
    wait()
    before: np.ndarray[Any, Any] = np.load(path)
    return before


def _measured(run: Run, model: nn.Module, rows: list[Any], label: str) -> list[tuple[float, int]]:
    with run.progress(label, len(rows)) as tick:
        return row_losses(model, rows, tick=tick)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared answers."""
    found = row_losses(measuring(model), PairRows(run.stage_folder("prepare")).talks.first(2 * PROBED))
    return sum(total for total, _ in found) / sum(count for _, count in found)


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Which answer of every held-out row is likelier (by token, where the loss goes by tokens), and by how much."""
    found = labelled.read(run, rows[: run.recipe.eval.limit], KINDS)
    coded = pairs.coded(found.examples, tokenizer_of(run), _task(run).max_length)
    losses = _measured(run, model, [row for pair in coded for row in pair], "held-out answers")
    scored = []
    for example, pair, better, worse in zip(found.examples, coded, losses[::2], losses[1::2], strict=True):
        one = Scored(prompt=example["prompt"], reference=pairs.text_of(example, "chosen"), tools=example["tools"])
        one.loss_sum, one.tokens = better
        if pairs.teaches(pair):
            said = [-total / (count if _task(run).by_token else 1) for total, count in (better, worse)]
            one.scores = {"preference_accuracy": float(said[0] > said[1]), "margin": said[0] - said[1]}
            one.answer = pairs.text_of(example, "chosen" if said[0] > said[1] else "rejected")
        scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss of the better answers: what is preferred should stay likely."""
    return {"chosen_loss": mean_loss}
