"""What tasks with labels share, as functions: the model with its head, rows prepared, a trainer, a probe, saving."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Subset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audit import statistics
from tuner.data.labelled import Found, LabelRow
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.data.splits import held_out, tell_skipped
from tuner.data.store import LabelRows, write_labelled
from tuner.errors import TuneError
from tuner.model import starts
from tuner.model.adapt import attach, measuring, quantization, wrap
from tuner.model.load import DTYPES, Ending, load_base, load_empty, load_folder, load_tokenizer
from tuner.model.objectives import Objective, of_labels
from tuner.runs import write_json
from tuner.schema.adapter import Full
from tuner.schema.data import Overlong
from tuner.schema.debug import Overfit
from tuner.schema.hardware import Fsdp
from tuner.schema.task import Classify, Labelled, Problem, Task
from tuner.train.possible import possible_here
from tuner.train.together import wait
from tuner.train.trainer import TokenTrainer

PROBED = 8  # rows whose loss is compared before saving and after loading


def task_of(run: Run) -> Labelled:
    """The recipe's task."""
    assert isinstance(run.recipe.task, Labelled)
    return run.recipe.task


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with its end of text."""
    words = task_of(run).head == "token"
    make = partial(load_tokenizer, run.recipe.model, progress=run.tell, chats=False, words=words)
    tokenizer: PreTrainedTokenizerBase = run.keep("tokenizer", lambda: make()[0])
    return tokenizer


def ending(run: Run, labels: Labels) -> Ending:
    """What the model ends with."""
    return ending_of(task_of(run), labels.names, tokenizer_of(run).pad_token_id)


def ending_of(task: Task, names: Sequence[str], padding: int | None) -> Ending:
    """The head of a task, with an output for each label."""
    problem = task.problem if isinstance(task, Classify) else None
    kind = {None: None, Problem.regression: "regression"}.get(problem, f"{problem}_classification")
    return Ending(head=task.head, labels=names, problem=kind, padding=padding)


def objective(run: Run, labels: Labels, *, lengths: Any = None) -> Objective:
    """What is learned."""
    task = task_of(run)
    problem = task.problem if isinstance(task, Classify) else None
    return of_labels(task.head, problem, tokenizer_of(run), outputs=len(labels.names), lengths=lengths)


def write(
    run: Run, found: Found, rows: Sequence[LabelRow], labels: Labels, counts: Counter[str], folder: Path, *, sample: Any, unit: str
) -> None:
    """Audit, and write what can teach, with `data.json` and `audit.json`."""
    run.tell(f"the rows are laid out as {', '.join(dict.fromkeys(map(str, found.layouts)))}")
    tell_skipped(run, found.misfits)
    data = run.recipe.data
    whole = [row for row in rows if not row.truncated] if data.overlong is Overlong.drop else list(rows)
    audited = labelled.audit(whole, found, counts, sample, unit) | {"rows_dropped": len(rows) - len(whole)}
    labelled.gate(audited, max_length=task_of(run).max_length)
    kept = [row for row in whole if row.trained.any()]
    write_labelled(folder, kept)
    shapes = ", ".join(dict.fromkeys(layout.shape.value for layout in found.layouts))
    facts: dict[str, Any] = {
        "train": statistics(list(kept)),
        "eval": {"rows": len(held_out(run))},
        "source": {"path": data.path, "id": data.id, "format": data.format.value, "shape": shapes, "columns": found.layouts[0].columns},
        "labels": list(labels.names),
    }
    if skipped := [asdict(problem) for problem in found.misfits]:
        write_json(folder / "skipped.json", skipped)
        facts["skipped"] = {"rows": len(skipped), "first": [f"{p['where']}: {p['what']}" for p in skipped[:10]]}
    write_json(folder / "data.json", facts)
    write_json(folder / "audit.json", audited)


def possible(run: Run, labels: Labels) -> None:
    """The adapter fits the model, as far as its configuration tells: no weights are read."""
    possible_here(run.recipe, run.device)
    end = ending(run, labels)
    wrap(load_empty(run.recipe.model, progress=run.tell, ending=end), run.recipe.adapter, start=False, head=end.head)


def load(run: Run, labels: Labels, *, trainable: bool, tuned: Path | None) -> nn.Module:
    """The base with a new head; or with `trainable` the adapter on it; or the saved result over a fresh base."""
    model, end = run.recipe.model, ending(run, labels)
    if tuned is not None and isinstance(run.recipe.adapter, Full):
        return load_folder(tuned, model, run.device, ending=end)
    cut = isinstance(run.recipe.hardware, Fsdp)
    quantised = quantization(run.recipe.adapter, DTYPES[model.dtype], cut=cut, headed=True) if trainable else None
    dtype = torch.float32 if trainable and isinstance(run.recipe.adapter, Full) else None
    place = (run.loads_on or run.device) if trainable else run.device
    placing = run.placing if trainable else None
    base = load_base(model, place, progress=run.tell, quantization=quantised, dtype=dtype, placing=placing, ending=end)
    if tuned is not None:
        return attach(base, tuned)
    return wrap(base, run.recipe.adapter, head=end.head) if trainable else base


def trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    prepared: Path,
    callbacks: list[TrainerCallback],
    *,
    labels: Labels,
    measured: Callable[[Run, Rows], Sequence[LabelRow]],
) -> Trainer:
    """A TokenTrainer over rows with labels, rows of like length together; `measured` gives the held-out rows."""
    validation = None
    if run.recipe.trainer.eval_steps:
        validation = run.folder / "validation"
        if run.leads:
            write_labelled(validation, measured(run, held_out(run)))
        wait()
    found = LabelRows(prepared)
    rows: Any = found
    lengths = found.lengths if task_of(run).group_by_length else None
    if isinstance(run.recipe.debug, Overfit):
        rows, lengths = Subset(rows, range(min(run.recipe.trainer.batch_size, len(rows)))), None
    return TokenTrainer(
        model=model,
        args=args,
        adapter=run.recipe.adapter,
        optim=run.recipe.trainer.optim,
        rows=rows,
        eval_rows=LabelRows(validation) if validation else None,
        tokenizer=tokenizer_of(run),
        padding_free=False,
        callbacks=callbacks,
        tell=run.tell,
        objective=objective(run, labels, lengths=lengths),
    )


@torch.no_grad()
def probe(run: Run, model: nn.Module, labels: Labels) -> float:
    """Mean loss of the first prepared rows."""
    rows, wanted = LabelRows(run.stage_folder("prepare")), objective(run, labels)
    batch = wanted.collate([rows[index] for index in range(min(PROBED, len(rows)))])
    batch = {name: value.to(run.device) for name, value in batch.items() if name != "filler"}
    return float(wanted.loss(measuring(model), batch, 0.0) / wanted.count(batch).clamp(min=1))


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with the head, or all) and tokenizer."""
    if isinstance(run.recipe.adapter, Full):
        model.to(DTYPES[run.recipe.model.dtype])
    starts.save(model, run.recipe.adapter, folder, beside=run.folder)
    tokenizer_of(run).save_pretrained(str(folder))


def measurable(rows: Sequence[LabelRow], max_length: int) -> None:
    """Raises TuneError (code 3) when no label of the held-out rows is within the length."""
    if not any(np.any(row.trained) for row in rows):
        raise TuneError(
            f"no label of {len(rows)} held-out rows is within task.max_length", "task.max_length", f"raise it (now {max_length} tokens)"
        )
