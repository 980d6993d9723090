"""What `task: segment` makes of rows, as functions: `read(run, rows)` -> what was found, MaskRows, and their places in the files."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tuner.context import Run
from tuner.data import images, labelled
from tuner.data.labelled import Found
from tuner.data.labels import NOTHING
from tuner.data.legend import Legend, coloured, mask_of
from tuner.data.load import Rows
from tuner.data.segments import MaskRow, Segments
from tuner.data.shapes import Example
from tuner.data.splits import split
from tuner.errors import GATE, TuneError
from tuner.model.processors import load_image_processor
from tuner.schema.data import RowShape
from tuner.schema.segment import Segment

COLUMNS = "image: …, mask: …"
FIX = "mend or remove this row; `task.labels`, `task.numbers` and `task.ignore` say what numbers mean"
SHOWN = 160  # pixels of the longer side of images and masks in the report


def task_of(run: Run) -> Segment:
    """The recipe's task."""
    assert isinstance(run.recipe.task, Segment)
    return run.recipe.task


def processor_of(run: Run) -> Any:
    """The model's image processor; that 0 is no label is for the recipe to say."""

    def made() -> Any:
        processor, wanted = load_image_processor(run.recipe.model, progress=run.tell), task_of(run).reduce_labels
        if processor.to_dict().get("do_reduce_labels", False) != wanted:
            means = "none of the labels" if wanted else "the first label"
            run.tell(f"0 in a mask is {means} (`task.reduce_labels={str(wanted).lower()}`), unlike in those that the base learned from")
            processor.do_reduce_labels = wanted
        return processor

    return run.keep("image processor", made)


def _rows(run: Run, rows: Rows) -> Found:
    return labelled.read(run, rows, ("labelled",), holds="mask", beside="mask", shape=RowShape.mask, asks=COLUMNS)


def legend_of(run: Run) -> Legend:
    """What numbers in masks mean: as the recipe says, else the numbers of the training masks, which are their own names."""

    def made() -> Legend:
        task = task_of(run)
        ignored = {*task.ignore, *([0] if task.reduce_labels else [])}
        numbers = task.numbers or list(range(task.reduce_labels, len(task.labels) + task.reduce_labels)) or _in_masks(run, ignored)
        return Legend(names=tuple(task.labels or map(str, numbers)), numbers=tuple(numbers), ignored=tuple(sorted(ignored - {*numbers})))

    legend: Legend = run.keep("legend", made)
    return legend


def _in_masks(run: Run, ignored: set[int]) -> list[int]:
    """The numbers of all training masks. Raises TuneError (code 2) with the first that cannot be read, unless such are to be skipped."""

    def numbers(example: Example) -> set[int]:
        return {int(number) for number in np.unique(mask_of(example, images.opened(example).size))}

    _, found = labelled.numbered(_rows(run, split(run)[0]), numbers, run, fix=FIX)
    there = sorted(set().union(*found) - ignored)
    if len(there) > NOTHING:
        what = f"the training masks have {len(there):,} different numbers, from {there[0]} to {there[-1]}: they are no classes"
        raise TuneError(what, "data", "a mask holds the number of a class at each pixel; `task.labels` names all labels")
    return there


def read(
    run: Run, rows: Rows, folder: Path | None = None, *, tick: Callable[[int], None] = lambda done: None
) -> tuple[Found, list[MaskRow], list[int]]:
    """Rows with pixels and masks, which lie in `folder`, or in files that go away with them; and their places in these."""
    legend = legend_of(run)
    with Segments(processor_of(run), folder) as files:

        def number(example: Example) -> int:
            image = images.opened(example)
            at = files.add(image, legend.placed(mask_of(example, image.size)))
            tick(at + 1)
            return at

        found, numbers = labelled.numbered(_rows(run, rows), number, run, fix=FIX)
        return found, files.rows(numbers), numbers


def pixels_of(row: MaskRow, names: Sequence[str]) -> Counter[str]:
    """How many pixels of an image each class has, of those that it has."""
    counts = np.bincount(np.asarray(row.mask()).ravel(), minlength=256)[: len(names)]
    return Counter({name: int(count) for name, count in zip(names, counts, strict=True) if count})


def labelled_in(mask: Any) -> int:
    """Pixels of a mask that are labelled."""
    return int(np.count_nonzero(mask != NOTHING))


def audit(found: Found, rows: Sequence[MaskRow], counts: Counter[str], *, sample: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts over all rows, as `audit.json` holds them: of each label its pixels, and how many are not labelled."""
    audited = labelled.audit(rows, found, counts, sample, "pixel")
    return audited | {"rows_dropped": 0, "not_labelled": sum(row.mask().size for row in rows) - sum(counts.values())}


def gate(audited: dict[str, Any], legend: Legend) -> None:
    """Raises TuneError (code 3) where no pixel is labelled, or all are of one class."""
    labels, nothing = audited["labels"], audited["not_labelled"]
    if len(labels) > 1:
        return
    what = (
        f"every labelled pixel is `{next(iter(labels))}`: there is nothing to tell apart" if labels else "no pixel of the masks is labelled"
    )
    said = f" ({nothing:,} pixels have a number of {list(legend.ignored)}, which teach nothing)" if nothing else ""
    fix = "look at the masks; what numbers mean say `task.labels`, `task.numbers` and `task.ignore`"
    if 255 in legend.ignored and nothing:
        fix += ": masks of 0 and 255 have `task: {labels: [background, object], numbers: [0, 255], ignore: []}`"
    raise TuneError(what + said, "label audit", fix, code=GATE)


def photo(row: MaskRow, processor: Any) -> str:
    """An image as the model sees it, small, as a `data:` address."""
    pixels = np.asarray(row.pixels()).transpose(1, 2, 0)
    turned = processor.to_dict().get("do_flip_channel_order", False)  # to blue, green, red: MobileViT's
    return images.thumbnail(Image.fromarray(np.ascontiguousarray(pixels[..., ::-1] if turned else pixels)), SHOWN)


def small(mask: Any) -> str:
    """A mask in colours, small, as a `data:` address."""
    image, written = coloured(np.ascontiguousarray(mask, np.uint8)), io.BytesIO()
    image.thumbnail((SHOWN, SHOWN), Image.Resampling.NEAREST)
    image.save(written, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(written.getvalue()).decode()
