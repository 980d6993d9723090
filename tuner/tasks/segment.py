"""`task: segment`: a class for every pixel of an image. A row is `{"image": "a.png", "mask": "a_mask.png"}`: numbers of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import autocast, nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import images
from tuner.data.audit import statistics
from tuner.data.load import Rows
from tuner.data.segmented import SegmentRows
from tuner.data.segments import MaskRow, write_segments
from tuner.data.shapes import Example
from tuner.data.splits import held_out
from tuner.eval.scores import Formula, Scored
from tuner.eval.segments import counted, segment
from tuner.eval.segments import formulas as of_counts
from tuner.model.endings import Ending, ending_of
from tuner.model.objectives import Objective
from tuner.model.segments import calibrate, of_masks, spare
from tuner.train import encoders, segments
from tuner.train import labelled as common
from tuner.train.segments import legend_of, processor_of, read

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
AT_ONCE = 8  # images that are measured at once, at most


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Images and masks to one size, numbers to classes; audit; write what can teach."""
    with run.progress("images prepared", len(rows)) as tick:
        found, coded, numbers = read(run, rows, folder, tick=tick)
    legend, counts = legend_of(run), Counter[str]()
    for row in coded:
        counts.update(segments.pixels_of(row, legend.names))
    kept = write_segments(folder, coded, numbers)
    audited = segments.audit(found, coded, counts, sample=_segments(run, found.examples[0], coded[0]))
    segments.gate(audited, legend)
    train = statistics(list(kept)) | {"pixels": list(coded[0].pixels().shape[1:])}
    encoders.noted(run, found, audited, train, folder, labels=list(legend.names), numbers=list(legend.numbers))


def _segments(run: Run, example: Example, row: MaskRow) -> list[dict[str, Any]]:
    counts = segments.pixels_of(row, legend_of(run).names)
    total = sum(counts.values())
    said = ", ".join(f"{name} {count / total:.0%}" for name, count in counts.most_common()) or "(nothing is labelled)"
    _, height, width = row.pixels().shape
    name = images.name_of(example, row.index)
    return [{"text": f"{name} ({width} × {height} pixels) → ", "trained": False}, {"text": said, "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row: the image's name, and the share of each class in its mask."""
    found, (row,), _ = read(run, rows[index : index + 1])
    counts = {"tokens": None, "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, found.examples[0], row)}


def check(run: Run, rows: Rows) -> None:
    """Held-out images and masks can be read, and have no other classes than the training rows."""
    read(run, rows[: run.recipe.eval.limit])


def _ending(run: Run) -> Ending:
    return ending_of(run.recipe.task, legend_of(run).names, None)


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def _objective(run: Run, shape: Sequence[int]) -> Objective:
    return of_masks(processor_of(run), shape=shape)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote; what is new in the model has seen its first images."""
    rows = SegmentRows(prepared)
    objective = _objective(run, rows.pixels.shape[1:])
    with autocast(run.device.type, torch.float16 if args.fp16 else torch.bfloat16, enabled=args.fp16 or args.bf16):
        seen = calibrate(model, rows, objective, run.device)
        spared = spare(model, rows, objective, run.device)
    if seen:
        run.tell("new batch norms have the statistics of the first training images, and keep them")
    if spared:
        run.tell(f"{spared} parameters come after all that the head looks at: they stay as they are")

    def written(folder: Path) -> SegmentRows:
        if run.leads:
            _, coded, numbers = read(run, held_out(run), folder)
            write_segments(folder, coded, numbers)
        return SegmentRows(folder)

    options: dict[str, Any] = {"rows": rows, "written": written, "processor": processor_of(run)}
    return encoders.trainer(run, model, args, callbacks, objective=lambda lengths: objective, **options)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared images."""
    rows = SegmentRows(run.stage_folder("prepare"))
    return common.probe_of(run, model, rows, _objective(run, rows.pixels.shape[1:]))


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with the head, or all) and the image processor."""
    encoders.save(run, model, folder, processor_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted mask of every held-out image, each with small copies of image and masks for the report."""
    (found, coded), legend = _measured(run, rows), legend_of(run)
    made, at_once = [], min(AT_ONCE, run.recipe.eval.batch_size)
    with run.progress("held-out images", len(coded)) as tick:
        predicted = segment(model, coded, _objective(run, coded[0].pixels().shape), at_once=at_once, tick=tick)
        for example, row, (said, loss) in zip(found.examples, coded, predicted, strict=True):
            true = np.asarray(row.mask())
            prompt = {"role": "user", "content": images.name_of(example, row.index), "image": segments.photo(row, processor_of(run))}
            one = Scored(prompt=[prompt], reference=segments.small(true), answer=segments.small(said), loss_sum=loss)
            one.tokens, one.counts = int(segments.labelled_in(true)), counted(said, true, legend.names)
            made.append(one)
    return made


def _measured(run: Run, rows: Rows) -> Any:
    """Held-out rows, read once in this process."""
    return run.keep("held-out images", lambda: read(run, rows[: run.recipe.eval.limit])[:2])


def formulas(run: Run) -> dict[str, Formula]:
    """Mean IoU, pixel accuracy and loss; the IoU of each class that is in the held-out masks."""
    names = legend_of(run).names
    there = Counter[str]()
    for row in _measured(run, held_out(run))[1]:
        there.update(segments.pixels_of(row, names))
    return of_counts(names, [name for name in names if there[name]])
