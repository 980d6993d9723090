"""What tasks of pairs share, as functions: what the rows hold, the reference, a trainer, a probe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data.audit import audit, gate, statistics
from tuner.data.chat import TokenRow, end_of_turn
from tuner.data.labelled import Found
from tuner.data.pairs import teaches
from tuner.data.store import PairRows, write_pairs
from tuner.errors import GATE, TuneError
from tuner.model.adapt import measuring
from tuner.model.objectives import Objective
from tuner.model.preferences import answers
from tuner.schema.data import Overlong
from tuner.train import encoders
from tuner.train.make import make_trainer, validation
from tuner.train.together import wait

AT_ONCE = 4  # pairs of which the log-probabilities are looked at before training
Pairs = Sequence[tuple[TokenRow, TokenRow]]


def write(run: Run, found: Found, coded: Pairs, tokenizer: PreTrainedTokenizerBase, folder: Path, *, liked: Sequence[bool] = ()) -> None:
    """Audit, and write what can teach, with `data.json` and `audit.json`; `liked`: of each whether its first answer was."""
    length, drop = run.recipe.task.max_length, run.recipe.data.overlong is Overlong.drop
    whole = [index for index, pair in enumerate(coded) if not drop or not any(row.truncated for row in pair)]
    own = 1 if liked else 2  # conversations of a row itself
    audited = audit([row for index in whole for row in coded[index][:own]], tokenizer, end_of_turn=end_of_turn(tokenizer))
    audited |= {"rows": len(whole), "rows_dropped": len(coded) - len(whole), "first": found.places[0]}
    gate(audited | {"rows_truncated": sum(all(row.truncated for row in coded[index]) for index in whole)}, max_length=length)
    audited["rows_truncated"] = sum(any(row.truncated for row in coded[index]) for index in whole)
    audited["rows_fully_masked"] = sum(not teaches(coded[index]) for index in whole)
    kept = [index for index in whole if teaches(coded[index])]
    if not kept:
        what = f"no row has two different answers within {length} tokens; the first: {found.places[0]}"
        raise TuneError(what, "loss-mask audit", "raise `task.max_length`, or look at `data.columns`", code=GATE)
    if len(kept) < len(coded):
        run.tell(f"{len(coded) - len(kept):,} of {len(coded):,} rows are left out: their answers are cut off, or alike")
    write_pairs(folder, [coded[index] for index in kept], [liked[index] for index in kept] if liked else ())
    train = _counted([coded[index] for index in kept], [liked[index] for index in kept if liked])
    encoders.noted(run, found, audited, train, folder, system=None)


def _counted(pairs: Pairs, liked: Sequence[bool]) -> dict[str, Any]:
    """Statistics of rows: each as long as its longer conversation. Of answers that were `liked` or not the second one is another row's, and
    counts for nothing else."""
    own = [pair[: 1 if liked else 2] for pair in pairs]
    every = statistics([row for pair in own for row in pair])
    once = {(tuple(row.ids.tobytes() for row in pair), liked[i] if liked else None) for i, pair in enumerate(own)}
    counts = {name: every[name] for name in ("tokens", "supervised_tokens")} | {"duplicates": len(own) - len(once)}
    return statistics([max(pair, key=lambda row: len(row.ids)) for pair in pairs]) | counts


def some_teach(coded: Pairs, max_length: int) -> None:
    """Raises TuneError (code 3) when no held-out row can be measured."""
    if not any(map(teaches, coded)):
        what = f"no held-out row has two different answers within {max_length} tokens"
        raise TuneError(what, "task.max_length", "raise it, or shorten the rows", code=GATE)


def trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    prepared: Path,
    callbacks: list[TrainerCallback],
    *,
    objective: Objective,
    tokenizer: PreTrainedTokenizerBase,
    padding_free: bool,
    compares: bool,
    held_out: Callable[[Path], None],
) -> Trainer:
    """A TokenTrainer over pairs; with what the model says of them before training, where the loss `compares` with it.

    `held_out` writes the held-out pairs into a folder.
    """
    rows = _compared(run, model, args, prepared, run.folder / "reference.npy", objective if compares else None)

    def written(folder: Path) -> Path:
        if run.leads:
            held_out(folder)
        return folder

    folder = validation(run, written)
    measured = folder and _compared(run, model, args, folder, folder / "reference.npy", objective if compares else None)
    options: dict[str, Any] = {"tokenizer": tokenizer, "padding_free": padding_free, "objective": objective}
    return make_trainer(run, model, args, callbacks, rows=rows, eval_rows=measured, **options)


def _compared(run: Run, model: nn.Module, args: TrainingArguments, folder: Path, path: Path, objective: Objective | None) -> PairRows:
    """Prepared pairs, with log-probabilities of both answers before training [pairs, 2] where there is an objective that compares.

    Those are made once, by the leader, before the first step, as training computes them, and kept: a resumed training has the same.
    """
    rows = PairRows(folder)
    if objective is None:
        return rows
    if run.leads and not (path.is_file() and len(np.load(path)) == len(rows)):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".partial.npy")
        np.save(beside, _before(run, model, args, rows, objective))
        beside.replace(path)
    wait()
    return PairRows(folder, reference=np.load(path))


@torch.no_grad()
def _before(run: Run, model: Any, args: TrainingArguments, rows: PairRows, objective: Objective) -> NDArray[np.float32]:
    found, device = list[NDArray[np.float32]](), next(model.parameters()).device
    half = torch.bfloat16 if args.bf16 else torch.float16
    with run.progress("answers before training", len(rows)) as tick, torch.autocast(device.type, half, enabled=args.bf16 or args.fp16):
        for first in range(0, len(rows), AT_ONCE):
            batch = objective.collate([rows[index] for index in range(first, min(first + AT_ONCE, len(rows)))])
            batch.pop("filler")
            there = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
            found.append(answers(measuring(model), there)[0].float().cpu().reshape(-1, 2).numpy())
            tick(min(first + AT_ONCE, len(rows)))
    return np.concatenate(found)
