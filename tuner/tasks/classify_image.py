"""`task: classify_image`: a class, several classes or a number for an image. A row is `{"image": "photo.jpg", "label": …}`."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import classes, images, labelled
from tuner.data.images import ImageRow, Pixels
from tuner.data.labelled import Found
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.splits import held_out
from tuner.data.store import ImageRows, write_labelled
from tuner.eval.classes import formulas as class_formulas
from tuner.eval.classes import scored
from tuner.eval.labels import predict
from tuner.eval.scores import Formula, Scored
from tuner.model.endings import Ending, ending_of
from tuner.model.objectives import Objective
from tuner.model.pictures import of_images
from tuner.model.processors import load_image_processor
from tuner.schema.data import RowShape
from tuner.schema.task import ClassifyImage, Problem
from tuner.train import encoders
from tuner.train import labelled as common

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]


def _task(run: Run) -> ClassifyImage:
    assert isinstance(run.recipe.task, ClassifyImage)
    return run.recipe.task


def labels_of(run: Run) -> Labels:
    """The recipe's labels, else those of the training rows; of a regression one output."""
    return classes.labels_of(run, holds="image")


def processor_of(run: Run) -> Any:
    """The model's image processor."""
    return run.keep("image processor", lambda: load_image_processor(run.recipe.model, progress=run.tell))


def _rows(run: Run, rows: Rows, folder: Path | None = None, *, tick: Any = lambda done: None) -> tuple[Found, list[ImageRow]]:
    """Rows with their pixels, which lie in `folder`, or in a file that goes away with them."""
    problem, labels = _task(run).problem, labels_of(run)
    shape = RowShape.image if problem is Problem.regression else RowShape.auto  # a number may be a `score`
    read = labelled.read(run, rows, ("labelled",), holds="image", shape=shape)
    with Pixels(processor_of(run), folder) as pixels:

        def number(example: Example) -> tuple[int, Any]:
            label = classes.number(example, problem, labels)
            at = pixels.add(images.opened(example))
            tick(at + 1)
            return at, label

        found, numbers = labelled.numbered(read, number, run, fix=classes.fix(problem))
        return found, pixels.rows([at for at, _ in numbers], [label for _, label in numbers])


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Images to pixels of one size, labels to numbers; audit; write what can teach."""
    with run.progress("images prepared", len(rows)) as tick:
        found, coded = _rows(run, rows, folder, tick=tick)
    counts = Counter(name for row in coded for name in classes.said(row.label, labels_of(run), _task(run).problem))
    sample, size = _segments(run, found.examples[0], coded[0]), coded[0].pixels().shape[1:]
    common.write(run, found, coded, labels_of(run), counts, folder, sample=sample, unit="image", pixels=size)


def _segments(run: Run, example: Example, row: ImageRow) -> list[dict[str, Any]]:
    said = ", ".join(classes.said(row.label, labels_of(run), _task(run).problem)) or "(none of the labels)"
    _, height, width = row.pixels().shape
    name = images.name_of(example, row.index)
    return [{"text": f"{name} ({width} × {height} pixels) → ", "trained": False}, {"text": said, "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row: the image's name, and its label."""
    found, (row,) = _rows(run, rows[index : index + 1])
    counts = {"tokens": None, "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, found.examples[0], row)}


def check(run: Run, rows: Rows) -> None:
    """Held-out images can be read, and have labels that the training rows have."""
    _rows(run, rows[: run.recipe.eval.limit])


def _ending(run: Run) -> Ending:
    return ending_of(_task(run), labels_of(run).names, None)


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def _objective(run: Run, shape: Any, lengths: Any = None) -> Objective:
    return of_images(_task(run).problem, processor_of(run), outputs=len(labels_of(run).names), shape=shape)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    rows = ImageRows(prepared)

    def written(folder: Path) -> ImageRows:
        if run.leads:
            write_labelled(folder, _rows(run, held_out(run), folder)[1])
        return ImageRows(folder)

    learned = partial(_objective, run, rows.pixels.shape[1:])
    return encoders.trainer(run, model, args, callbacks, rows=rows, objective=learned, written=written, processor=processor_of(run))


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared images."""
    rows = ImageRows(run.stage_folder("prepare"))
    return common.probe_of(run, model, rows, _objective(run, rows.pixels.shape[1:]))


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with the head, or all) and the image processor."""
    encoders.save(run, model, folder, processor_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted label of every held-out image, each with a small copy of itself for the report."""
    found, coded = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out images", len(coded)) as tick:
        predicted = predict(model, coded, _objective(run, coded[0].pixels().shape), tick=tick)
    prompts = [
        {"role": "user", "content": images.name_of(example, index), "image": images.thumbnail(images.opened(example))}
        for index, example in enumerate(found.examples)
    ]
    return scored(prompts, coded, predicted, labels_of(run), _task(run).problem)


def formulas(run: Run) -> dict[str, Formula]:
    """Loss; F1 of classes, or correlations of numbers."""
    return class_formulas(_task(run).problem, labels_of(run))
