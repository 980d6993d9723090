"""The rules of `checks.py` about `task: segment`: what numbers in masks mean, and what images with masks have no use for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.schema.data import Overlong
from tuner.schema.hardware import DeepSpeed, Fsdp
from tuner.schema.recipe import Recipe
from tuner.schema.segment import Segment
from tuner.schema.transforms.augment_image import Turning
from tuner.schema.transforms.reading import name_of, read_step
from tuner.unread_rules import useless

Finding = tuple[str, str, str]
MOST, HIGHEST = 255, 65_535  # classes (a mask as it is learned has 8 bits), and the highest number of a PNG


def meaning(recipe: Recipe) -> Iterator[Finding]:
    """Each label has one number, which is not ignored."""
    task = recipe.task
    if not isinstance(task, Segment):
        return
    if max(len(task.labels), len(task.numbers)) > MOST:
        yield "task.labels", f"a mask can tell at most {MOST} classes", "leave some out: `task.ignore` names their numbers"
    for key in ("numbers", "ignore"):
        if wrong := [number for number in getattr(task, key) if not 0 <= number <= HIGHEST]:
            yield f"task.{key}", f"`task.{key}` has {wrong[0]}: numbers in a mask are from 0 to {HIGHEST}", "mend it"
    if task.numbers and task.reduce_labels:
        yield "task.reduce_labels", "`task.numbers` and `task.reduce_labels` both say which number a label has", "remove one of the two"
    if len(set(task.numbers)) < len(task.numbers):
        yield "task.numbers", "`task.numbers` has a number twice", "give each label its own"
    if task.numbers and task.labels and len(task.numbers) != len(task.labels):
        what = f"`task.labels` names {len(task.labels)}, and `task.numbers` has {len(task.numbers)}"
        yield "task.numbers", what, "give each label its number, in the same order"
    numbers = task.numbers or range(task.reduce_labels, len(task.labels) + task.reduce_labels)
    if both := sorted(set(numbers) & set(task.ignore)):
        yield (
            "task.ignore",
            f"{both[0]} is the number of a label, and in `task.ignore`",
            f"as `task.ignore={sorted({*task.ignore} - {*both})}`",
        )


def unread(recipe: Recipe) -> Iterator[Finding]:
    """What images with masks have no use for."""
    if not isinstance(recipe.task, Segment):
        return
    why = "it is for tasks of texts"
    yield from useless(recipe, why, "trainer.label_smoothing_factor", "eval.generate")
    if recipe.trainer.neftune_noise_alpha is not None:
        key = "trainer.neftune_noise_alpha"
        yield key, f"`task=segment` has no use for `{key}`: {why}", "remove it"
    if isinstance(recipe.hardware, Fsdp | DeepSpeed):
        what = f"`task=segment` is not made for `hardware={recipe.hardware.kind}`"
        yield "hardware", what, "use `hardware=ddp`: such models fit on each device"
    if recipe.data.overlong is Overlong.drop:
        yield "data.overlong", "`task=segment` has no use for `data.overlong`: an image has no length", "remove it"


def turning(recipe: Recipe) -> Iterator[Finding]:
    """What turns an image turns its mask."""
    if not isinstance(recipe.task, Segment):
        return
    data = recipe.data
    for prefix, items in [("data", data.transforms), *((f"data.mix.{name}", source.transforms) for name, source in data.mix.items())]:
        yield from _turned(prefix, items)


def _turned(prefix: str, items: list[Any]) -> Iterator[Finding]:
    for index, item in enumerate(items):
        step, _ = read_step(item)
        if isinstance(step, Turning) and not step.mask:
            what = f"`{name_of(item)}` moves what is in an image, and its mask stays"
            yield f"{prefix}.transforms.{index}", what, f"name the mask's column: `{name_of(item)}: {{mask: mask}}`"


RULES = (meaning, unread, turning)
