"""What tasks that write no text share, as functions: tokenizer, the model with its ending, a trainer, saving."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data.labelled import Found
from tuner.data.splits import held_out, tell_skipped
from tuner.model import starts
from tuner.model.adapt import attach, quantization, wrap
from tuner.model.endings import Ending
from tuner.model.heads import HEADS
from tuner.model.load import DTYPES, load_base, load_empty, load_folder, load_tokenizer
from tuner.model.objectives import Objective
from tuner.runs import write_json
from tuner.schema.adapter import Full
from tuner.schema.debug import Overfit
from tuner.schema.hardware import Fsdp
from tuner.schema.task import Grouped
from tuner.train.make import make_trainer, validation
from tuner.train.possible import possible_here


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The model's tokenizer; one without a padding token pads with its end of text."""
    words = run.recipe.task.head == "token"
    make = partial(load_tokenizer, run.recipe.model, progress=run.tell, chats=False, words=words)
    tokenizer: PreTrainedTokenizerBase = run.keep("tokenizer", lambda: make()[0])
    return tokenizer


def noted(run: Run, found: Found, audited: dict[str, Any], train: dict[str, Any], folder: Path, **more: Any) -> None:
    """Tell of the rows, and write `data.json` and `audit.json` (what was skipped: `skipped.json`); `train`: their statistics."""
    run.tell(f"the rows are laid out as {', '.join(dict.fromkeys(map(str, found.layouts)))}")
    tell_skipped(run, found.misfits)
    data, shapes = run.recipe.data, ", ".join(dict.fromkeys(layout.shape.value for layout in found.layouts))
    source = {"path": data.path, "id": data.id, "format": data.format.value, "shape": shapes, "columns": found.layouts[0].columns}
    facts: dict[str, Any] = {"train": train, "eval": {"rows": len(held_out(run))}, "source": source} | more
    if skipped := [asdict(problem) for problem in found.misfits]:
        write_json(folder / "skipped.json", skipped)
        facts["skipped"] = {"rows": len(skipped), "first": [f"{p['where']}: {p['what']}" for p in skipped[:10]]}
    write_json(folder / "data.json", facts)
    write_json(folder / "audit.json", audited | {"first": found.places[0]})


def possible(run: Run, end: Ending) -> None:
    """The adapter fits the model, as far as its configuration tells: no weights are read."""
    possible_here(run.recipe, run.device)
    wrap(load_empty(run.recipe.model, progress=run.tell, ending=end), run.recipe.adapter, start=False, head=end.head, language=end.language)


def load(run: Run, end: Ending, *, trainable: bool, tuned: Path | None) -> nn.Module:
    """The base with its ending; or with `trainable` the adapter on it; or the saved result over a fresh base."""
    model = run.recipe.model
    if tuned is not None and isinstance(run.recipe.adapter, Full):
        return load_folder(tuned, model, run.device, ending=end)
    cut = isinstance(run.recipe.hardware, Fsdp)
    quantised = quantization(run.recipe.adapter, DTYPES[model.dtype], cut=cut, headed=HEADS[end.head].new) if trainable else None
    dtype = torch.float32 if trainable and isinstance(run.recipe.adapter, Full) else None
    place = (run.loads_on or run.device) if trainable else run.device
    placing = run.placing if trainable else None
    base = load_base(model, place, progress=run.tell, quantization=quantised, dtype=dtype, placing=placing, ending=end)
    if tuned is not None:
        return attach(base, tuned)
    return wrap(base, run.recipe.adapter, head=end.head, language=end.language) if trainable else base


def trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    callbacks: list[TrainerCallback],
    *,
    rows: Any,
    objective: Callable[[Any], Objective],
    written: Callable[[Path], Any],
    processor: Any = None,
) -> Trainer:
    """A TokenTrainer over prepared rows, those of like length together; `written` puts held-out rows into a folder and gives them.

    `objective` takes the rows' lengths, where they are to be grouped; `processor`: what stands in for a tokenizer.
    """
    assert isinstance(run.recipe.task, Grouped)
    grouped = run.recipe.task.group_by_length and not isinstance(run.recipe.debug, Overfit)
    learned = objective(rows.lengths if grouped else None)
    found = validation(run, written)
    options: dict[str, Any] = {"tokenizer": processor or tokenizer_of(run), "objective": learned}
    return make_trainer(run, model, args, callbacks, rows=rows, eval_rows=found, **options)


def save(run: Run, model: Any, folder: Path, tokenizer: Any = None) -> None:
    """Weights (the adapter with the head, or all) and tokenizer, or what stands in for one."""
    if isinstance(run.recipe.adapter, Full):
        model.to(DTYPES[run.recipe.model.dtype])
    starts.save(model, run.recipe.adapter, folder, beside=run.folder)
    (tokenizer or tokenizer_of(run)).save_pretrained(str(folder))
