"""What tasks with labels share, as functions: what the model ends with, rows prepared, a trainer, a probe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audit import statistics
from tuner.data.labelled import Found, LabelRow
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import LabelRows, write_labelled
from tuner.errors import TuneError
from tuner.model.adapt import measuring
from tuner.model.endings import Ending, ending_of
from tuner.model.objectives import Objective, of_labels
from tuner.schema.data import Overlong
from tuner.schema.task import Classes, Labelled
from tuner.train import encoders
from tuner.train.encoders import tokenizer_of

PROBED = 8  # rows whose loss is compared before saving and after loading


def task_of(run: Run) -> Labelled:
    """The recipe's task."""
    assert isinstance(run.recipe.task, Labelled)
    return run.recipe.task


def ending(run: Run, labels: Labels) -> Ending:
    """What the model ends with."""
    return ending_of(task_of(run), labels.names, tokenizer_of(run).pad_token_id)


def objective(run: Run, labels: Labels, lengths: Any = None) -> Objective:
    """What is learned."""
    task = task_of(run)
    problem = task.problem if isinstance(task, Classes) else None
    return of_labels(task.head, problem, tokenizer_of(run), outputs=len(labels.names), lengths=lengths)


def write(
    run: Run,
    found: Found,
    rows: Sequence[LabelRow],
    labels: Labels,
    counts: Counter[str],
    folder: Path,
    *,
    sample: Any,
    unit: str,
    pixels: Sequence[int] = (),
) -> None:
    """Audit, and write what can teach, with `data.json` and `audit.json`. `pixels`: height and width, where the rows are images."""
    data = run.recipe.data
    whole = [row for row in rows if not row.truncated] if data.overlong is Overlong.drop else list(rows)
    audited = labelled.audit(whole, found, counts, sample, unit) | {"rows_dropped": len(rows) - len(whole)}
    labelled.gate(audited, max_length=task_of(run).max_length)
    kept = [row for row in whole if row.trained.any()]
    write_labelled(folder, kept)
    train = statistics(list(kept)) | ({"pixels": list(pixels)} if pixels else {})
    encoders.noted(run, found, audited, train, folder, labels=list(labels.names))


def trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    prepared: Path,
    callbacks: list[TrainerCallback],
    *,
    learned: Callable[[Any], Objective],
    measured: Callable[[Rows], Sequence[LabelRow]],
) -> Trainer:
    """A trainer over rows with labels, of which `learned` makes an objective by their lengths; `measured` gives the held-out rows."""

    def written(folder: Path) -> LabelRows:
        if run.leads:
            write_labelled(folder, measured(held_out(run)))
        return LabelRows(folder)

    return encoders.trainer(run, model, args, callbacks, rows=LabelRows(prepared), objective=learned, written=written)


def probe(run: Run, model: nn.Module, labels: Labels) -> float:
    """Mean loss of the first prepared rows."""
    return probe_of(run, model, LabelRows(run.stage_folder("prepare")), objective(run, labels))


@torch.no_grad()
def probe_of(run: Run, model: nn.Module, rows: Any, wanted: Objective) -> float:
    """Mean loss of the first of some rows."""
    batch = wanted.collate([rows[index] for index in range(min(PROBED, len(rows)))])
    batch = {name: value.to(run.device) for name, value in batch.items() if name != "filler"}
    return float(wanted.loss(measuring(model), batch, 0.0) / wanted.count(batch).clamp(min=1))


def measurable(rows: Sequence[LabelRow], max_length: int) -> None:
    """Raises TuneError (code 3) when no label of the held-out rows is within the length."""
    if not any(np.any(row.trained) for row in rows):
        raise TuneError(
            f"no label of {len(rows)} held-out rows is within task.max_length", "task.max_length", f"raise it (now {max_length} tokens)"
        )
