"""The rules of `checks.py` about objects in images: what `task: detect` does not read, and what would move an image without its boxes."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.schema.adapter import QLora
from tuner.schema.data import Overlong, source_key, sources
from tuner.schema.detect import Detect
from tuner.schema.recipe import Recipe
from tuner.schema.transforms.augment_image import Crop, Flip, Rotate
from tuner.schema.transforms.reading import read_step
from tuner.unread_rules import Finding, useless


def detecting(recipe: Recipe) -> Iterator[Finding]:
    """What a task of boxes does not read, or is not made for yet; and steps that would turn images without their boxes."""
    if not isinstance(recipe.task, Detect):
        return
    yield from useless(recipe, "an object is a box with a class", "trainer.label_smoothing_factor", "eval.generate")
    if recipe.data.overlong is Overlong.drop:
        yield "data.overlong", "`task=detect` has no use for `data.overlong=drop`: no image is too long", "remove it"
    if recipe.trainer.neftune_noise_alpha is not None:
        key = "trainer.neftune_noise_alpha"
        yield key, f"`task=detect` has no use for `{key}`: it is for models that read text", "remove it"
    if isinstance(recipe.adapter, QLora):
        yield "adapter", "`task=detect` is not made for a base that is quantised", "use `adapter=lora`, or `adapter=full`"
    if recipe.task.image_size and recipe.task.image_size % 32:
        what = f"`task.image_size` is {recipe.task.image_size}, and detectors halve an image up to five times"
        yield "task.image_size", what, "take a multiple of 32"
    lists = {source_key(name, "transforms"): source.transforms for name, source in sources(recipe.data).items() if name}
    for key, items in (lists | {"data.transforms": recipe.data.transforms}).items():
        for step in (step for item in items if isinstance(step := read_step(item)[0], Flip | Rotate | Crop)):
            yield (
                key,
                f"`{step.kind}` would move what is on an image, and its boxes would stay",
                "take it out: `augment_colour` moves nothing",
            )


RULES = (detecting,)
