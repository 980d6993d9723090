"""`task: detect`: boxes with classes in images. A row is `{"image": "a.png", "objects": {"bbox": [[x, y, w, h]], "category": ["cat"]}}`."""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import classes, images, labelled
from tuner.data.audit import statistics
from tuner.data.boxed import BoxRows, item, write_boxes
from tuner.data.labelled import Found
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.data.objects import BoxRow, boxed
from tuner.data.seen import Album
from tuner.data.shapes import Example
from tuner.data.splits import held_out
from tuner.errors import GATE, TuneError
from tuner.eval import boxes as measured
from tuner.eval.scores import Formula, Scored
from tuner.eval.spotted import said, spotted
from tuner.model.adapt import measuring
from tuner.model.detection import of_boxes, on, seen, settled, shared
from tuner.model.endings import Ending, ending_of
from tuner.model.load import load_empty
from tuner.model.processors import load_box_processor
from tuner.schema.adapter import Full
from tuner.schema.detect import Detect
from tuner.train import encoders

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
WHOLE = sys.maxsize  # pixels of an image that is kept as it is
PROBED = 4  # rows whose loss is compared before saving and after loading
FIX = "mend or remove this row, or skip such rows with `data.on_error=skip`"


def _task(run: Run) -> Detect:
    assert isinstance(run.recipe.task, Detect)
    return run.recipe.task


def processor_of(run: Run) -> Any:
    """The model's image processor, with the size that the recipe says."""
    make = partial(load_box_processor, run.recipe.model, size=_task(run).image_size, progress=run.tell)
    return run.keep("image processor", make)


def labels_of(run: Run) -> Labels:
    """The recipe's labels, else the categories of the training rows."""
    read = partial(labelled.read, run, kinds=("boxed",))
    return classes.labels_in(run, read, lambda example: [one["category"] for one in example["objects"]])


def _rows(run: Run, rows: Rows, album: Album, *, tick: Any = lambda done: None) -> tuple[Found, list[BoxRow]]:
    """Rows whose image files are in the album. Raises TuneError (code 2) for a box that is none, or skips its row."""
    read, labels = labelled.read(run, rows, ("boxed",)), labels_of(run)
    for example, place in zip(read.examples, read.places, strict=True):
        example["beside"] = Path(place).expanduser().absolute().parent

    def number(example: Example) -> BoxRow:
        before = len(album)
        image = album.add(example["image"], example["beside"])
        try:
            found = boxed(example, labels, image, number=before)
        except Exception:
            album.forget(before)
            raise
        tick(len(album))
        return found

    return labelled.numbered(read, number, run, fix=FIX)


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Categories to numbers, boxes looked at; audit; write what can teach, with the images' files."""
    with Album(WHOLE, folder) as album, run.progress("images prepared", len(rows)) as tick:
        found, coded = _rows(run, rows, album, tick=tick)
        names, learned = labels_of(run).names, [row.label[~row.crowd] for row in coded]
        counts = Counter(names[number] for row in learned for number in row)
        if not counts:
            what = f"no object is on any of {len(coded):,} images; the first: {found.places[0]}"
            raise TuneError(what, "label audit", "look at the column `objects` (`data.columns`)", code=GATE)
        write_boxes(folder, coded, album.ends)
    shown = next(row for row, there in zip(coded, learned, strict=True) if len(there))
    audited = {
        "rows": len(coded),
        "tokens": len(coded),
        "supervised_tokens": len(coded),
        "rows_fully_masked": 0,
        "rows_truncated": 0,
        "rows_dropped": 0,
        "labels": dict(counts.most_common()),
        "labels_of": "box",
        "sample": _segments(found.examples[coded.index(shown)], shown, names),
        "backgrounds": (without := sum(not len(there) for there in learned)),
    }
    run.tell(f"{counts.total():,} boxes on {len(coded):,} images" + (f", {without:,} of them without an object" if without else ""))
    if crowds := sum(int(row.crowd.sum()) for row in coded):
        run.tell(f"crowds, which are not learned: {crowds:,}")
    train = statistics(list(coded)) | {"pixels": [max(row.high for row in coded), max(row.wide for row in coded)], "various": True}
    encoders.noted(run, found, audited, train, folder, labels=list(names))


def _segments(example: Example, row: BoxRow, names: tuple[str, ...]) -> list[dict[str, Any]]:
    there = zip(row.boxes, row.label, row.crowd, strict=True)
    what = "; ".join(said(names[label], box) + (" (a crowd)" if crowd else "") for box, label, crowd in there)
    name = images.name_of(example, row.index)
    return [{"text": f"{name} ({row.wide} × {row.high} pixels) → ", "trained": False}, {"text": what or "(no object)", "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row: the image's name, and what is on it."""
    with Album(WHOLE) as album:
        found, (row,) = _rows(run, rows[index : index + 1], album)
    counts = {"tokens": None, "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(found.examples[0], row, labels_of(run).names)}


def check(run: Run, rows: Rows) -> None:
    """Held-out images can be read, and have boxes within them and categories that the training rows have. Raises where none has a box."""
    with Album(WHOLE) as album:
        found, coded = _rows(run, rows[: run.recipe.eval.limit], album)
    if all(row.crowd.all() for row in coded):
        what = f"no object is on any of {len(coded):,} held-out images; the first: {found.places[0]}"
        raise TuneError(what, "data.eval_path", "hold out images with objects: precision is measured of what is there", code=GATE)


def _ending(run: Run) -> Ending:
    return ending_of(_task(run), labels_of(run).names, None)


def possible(run: Run) -> None:
    """The processor turns boxes with images, and the adapter fits the model with its head: no weights are read."""
    processor_of(run)
    if not isinstance(run.recipe.adapter, Full):
        empty = load_empty(run.recipe.model, progress=run.tell, ending=_ending(run))
        if twice := shared(empty):
            what = f"{type(empty).__name__} has `{twice[0]}` in two places, and an adapter would train a copy in one of them"
            raise TuneError(what, "adapter", "use `adapter=full`")
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with its head; the adapter on it; or the saved result over a fresh base."""
    model = encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)
    return settled(model) if trainable else model


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    rows, processor = BoxRows(prepared), processor_of(run)

    def written(folder: Path) -> BoxRows:
        if run.leads:
            with Album(WHOLE, folder) as album:
                write_boxes(folder, _rows(run, held_out(run), album)[1], album.ends)
        return BoxRows(folder)

    learned = partial(of_boxes, processor, model, rows[rows.first]["rows"][0])
    return encoders.trainer(run, model, args, callbacks, rows=rows, objective=learned, written=written, processor=processor)


@torch.no_grad()
def probe(run: Run, model: nn.Module) -> float:
    """Loss of the first prepared rows."""
    rows = BoxRows(run.stage_folder("prepare"))
    wanted = of_boxes(processor_of(run), model, rows[0]["rows"][0])
    batch = on(run.device, wanted.collate([rows[index] for index in range(min(PROBED, len(rows)))]))
    count = wanted.count(batch)
    return float((wanted.loss(measuring(model), batch, 0.0) / (count + (count == 0))).sum())


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter with the head, or all) and the image processor."""
    encoders.save(run, model, folder, processor_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out image, and what was found on it beside what is there, with a small copy of it for the report."""
    with Album(WHOLE) as album:
        found, coded = _rows(run, rows[: run.recipe.eval.limit], album)
        files = album.reader()
    given = [item(files(row.number, 1)[0], row.boxes[~row.crowd], row.label[~row.crowd]) for row in coded]
    with run.progress("held-out images", len(given)) as tick:
        each = list(seen(model, processor_of(run), given, tick=tick))
    return spotted(found.examples, coded, files, each, labels_of(run).names)


def formulas(run: Run) -> dict[str, Formula]:
    """Average precision over all thresholds of overlap, and at 0.50; loss."""
    return {"map": measured.precision(measured.THRESHOLDS), "map_50": measured.precision(1), "loss": measured.loss}
