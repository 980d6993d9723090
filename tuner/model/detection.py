"""What is learned of objects in images: `of_boxes(processor, model)` -> an Objective with Transformers' loss; `seen(…)`, what is found.

A detector's loss is a sum over boxes divided by their number; DETR's and YOLOS' is, beside that, a mean over all that was looked for, in
which what is no object weighs less. Both are sums over images divided by sums over images. So a step's loss is that of Transformers over
the whole global batch, in however many parts and processes it passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from peft import PeftModel
from PIL import Image
from torch import Tensor, nn
from transformers import PreTrainedModel, YolosConfig
from transformers.loss import loss_for_object_detection, loss_lw_detr

from tuner.data.images import opened
from tuner.model.objectives import Batch, Item, Objective


@dataclass(frozen=True, kw_only=True)
class Detector:
    """What is to be known of a model: whether it sees which pixels are padding, and of a mean over what is looked for how many that is
    in an image, and what no object weighs in it (`queries` 0: there is no such mean).
    """

    masked: bool
    queries: int
    no_object: float

    @classmethod
    def of(cls, model: nn.Module) -> Detector:
        """Of a model, or of one with an adapter on it."""
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        config = base.config
        mean = base.loss_function is loss_for_object_detection.ForObjectDetectionLoss
        queries = config.num_detection_tokens if isinstance(config, YolosConfig) else config.num_queries if mean else 0
        masked = "pixel_mask" in inspect.signature(type(base).forward).parameters
        return cls(masked=masked, queries=queries, no_object=config.eos_coefficient if mean else 0.0)

    def count(self, batch: Batch) -> Tensor:
        """What a batch's losses are divided by: [boxes], or [weight of what was looked for, boxes]."""
        numbers = [len(one["boxes"]) for one in batch["labels"]]
        matched = sum(min(number, self.queries) for number in numbers)
        weight = matched + self.no_object * (len(numbers) * self.queries - matched)
        found = torch.tensor([weight, sum(numbers)] if self.queries else [sum(numbers)], device=batch["taught"].device)
        return cast(Tensor, found * batch["taught"])

    def lost(self, found: Any, batch: Batch) -> Tensor:
        """The model's loss as sums, which `count` divides."""
        boxes = max(1, sum(len(one["boxes"]) for one in batch["labels"]))
        if not self.queries:
            return cast(Tensor, (found.loss * boxes * batch["taught"]).reshape(1))
        mean = sum(value for name, value in found.loss_dict.items() if name.startswith("loss_ce"))
        weight = self.count(batch | {"taught": torch.ones_like(batch["taught"])})[0]
        return cast(Tensor, torch.stack([mean * weight, (found.loss - mean) * boxes]) * batch["taught"])


def of_boxes(processor: Any, model: nn.Module, blank: dict[str, Any], lengths: Any = None) -> Objective:
    """Classes and boxes. `blank`: any row, whose image stands where there is none to learn from."""
    known = Detector.of(model)

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        lost = known.lost(passed(model, batch), batch)
        if model.training and not any(len(one["boxes"]) for one in batch["labels"]):
            for name, idle in model.named_parameters():  # which without boxes takes no part, and DDP would wait for
                lost = lost + 0.0 * idle.sum() if "denoising_class_embed" in name and idle.requires_grad else lost
        return lost

    turn = partial(collate, processor, masked=known.masked)
    return Objective(collate=turn, loss=lost, count=known.count, blank=[blank | {"blank": True}], lengths=lengths, whole=True)


def passed(model: nn.Module, batch: Batch) -> Any:
    """What the model makes of a batch, with its loss, which is that of this process alone."""
    with by_itself():
        return model(**{name: value for name, value in batch.items() if name not in ("taught", "filler")})


def collate(processor: Any, items: Sequence[Item], *, masked: bool) -> Batch:
    """Images below each other, each padded on the right and below; with boxes in shares of their own image, as DETR has them.

    Rows that teach nothing are left out; of nothing but such, one stays and counts for nothing.
    """
    rows = [row for item in items for row in item["rows"]]
    taught = [row for row in rows if not row.get("blank")]
    made = [turned(processor, opened({"image": row["image"]}), row["boxes"], row["classes"]) for row in taught or rows[:1]]
    high, wide = (max(one["pixel_values"].shape[side] for one in made) for side in (-2, -1))
    pixels, there = torch.zeros(len(made), 3, high, wide), torch.zeros(len(made), high, wide, dtype=torch.long)
    for line, one in enumerate(made):
        seen = one["pixel_values"]
        pixels[line, :, : seen.shape[-2], : seen.shape[-1]] = seen
        there[line, : seen.shape[-2], : seen.shape[-1]] = 1
    batch: Batch = {"pixel_values": pixels} | ({"pixel_mask": there} if masked else {})
    batch["labels"] = [{name: one[name] for name in ("class_labels", "boxes")} for one in made]
    return batch | {"taught": torch.tensor(float(bool(taught))), "filler": int(not taught)}


def turned(processor: Any, image: Image.Image, boxes: Any, classes: Any) -> dict[str, Tensor]:
    """`pixel_values` [3, height, width], `class_labels` [n], `boxes` [n, 4]: what the model's own processor makes of an image and boxes."""
    each = [{"bbox": box, "area": box[2] * box[3], "category_id": number} for box, number in zip(boxes, classes, strict=True)]
    made = processor(images=image, annotations={"image_id": 0, "annotations": each}, do_pad=False, return_tensors="pt")
    label = made["labels"][0]
    return {"pixel_values": made["pixel_values"][0], "class_labels": label["class_labels"], "boxes": label["boxes"].float()}


@torch.inference_mode()
def seen(
    model: Any, processor: Any, rows: Sequence[dict[str, Any]], *, tick: Callable[[int], None] = lambda done: None
) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
    """Of each row what is found (`scores` [n], `labels` [n], `boxes` [n, 4]: corners in pixels); its losses as sums, and their counts.

    An image at a time: padding would change a little what is found.
    """
    known, device = Detector.of(model), next(model.parameters()).device
    for number, row in enumerate(rows, 1):
        batch = on(device, collate(processor, [{"rows": [row]}], masked=known.masked))
        found = passed(model, batch)
        lost, count = known.lost(found, batch), known.count(batch)
        found.logits, found.pred_boxes = found.logits.float(), found.pred_boxes.float()
        image = opened({"image": row["image"]})
        (one,) = processor.post_process_object_detection(found, threshold=0.0, target_sizes=[(image.height, image.width)])
        yield {name: value.cpu() for name, value in one.items()}, lost.float().cpu(), count.cpu()
        tick(number)


def on(device: torch.device, batch: Batch) -> Batch:
    """The batch on a device."""
    moved = {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    return moved | {"labels": [{name: value.to(device) for name, value in one.items()} for one in batch["labels"]]}


@contextmanager
def by_itself() -> Iterator[None]:
    """Transformers' losses with the boxes of this process alone: they would ask all processes, where one may measure and others wait."""
    places = {"is_accelerate_available": loss_for_object_detection, "_is_torch_distributed_initialized": loss_lw_detr}
    before = {name: vars(module)[name] for name, module in places.items()}
    try:
        for name, module in places.items():
            setattr(module, name, lambda: False)
        yield
    finally:
        for name, module in places.items():
            setattr(module, name, before[name])


def settled(model: nn.Module) -> nn.Module:
    """The model with what its batch norms know of pixels kept as it is while it learns.

    Each batch would change it, the more the smaller its parts are; and an adapter does not have it.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(_measured)
    return model


def _measured(module: nn.Module, inputs: Any) -> None:
    module.eval()


def shared(base: PreTrainedModel) -> list[str]:
    """Parameters that stand in two places of the model: PEFT would train a copy in one of them, or fail."""
    places: dict[int, list[str]] = {}
    for name, parameter in base.named_parameters(remove_duplicate=False):
        places.setdefault(id(parameter), []).append(name)
    return [names[0] for names in places.values() if len(names) > 1]
