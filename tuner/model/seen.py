"""What is learned of conversations about images: `of_seen(seeing, blank)` -> an Objective; their losses; `answers(model, …)`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig

from tuner.data.images import opened
from tuner.data.seeing import Seeing
from tuner.data.shown import IGNORE
from tuner.model.objectives import Batch, Item, Objective

BY_TOKEN = ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids")
AT_ONCE = 4  # rows that are measured together
Prompt = tuple[str, list[Image.Image]]


def of_seen(seeing: Seeing, blank: dict[str, Any], lengths: Any = None) -> Objective:
    """The next token of what is trained. `blank`: any row, for where there is none to learn from."""
    nothing = blank | {"labels": [IGNORE] * len(blank["input_ids"]), "blank": True}

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        return token_losses(model, batch, smoothing=smoothing)[0].sum()

    return Objective(collate=partial(collate, seeing), loss=lost, count=_count, blank=[nothing], lengths=lengths, whole=True)


def _count(batch: Batch) -> Tensor:
    count: Tensor = (batch["labels"][:, 1:] != IGNORE).sum()
    return count


def collate(seeing: Seeing, items: list[Item]) -> Batch:
    """Rows as the model's processor makes them, padded on the right, each cut to the tokens that it was prepared with."""
    rows = [row for item in items for row in item["rows"]]
    images = [[opened({"image": file}) for file in row["images"]] for row in rows]
    made = seeing.inputs([row["text"] for row in rows], images, padding=True, padding_side="right", return_tensors="pt")
    lengths = [len(row["input_ids"]) for row in rows]
    batch: Batch = {name: value[:, : max(lengths)] if name in BY_TOKEN else value for name, value in made.items()}
    labels = torch.full((len(rows), max(lengths)), IGNORE)
    for line, (row, length) in enumerate(zip(rows, lengths, strict=True)):
        labels[line, 1:length] = torch.tensor(row["labels"][1:])
        batch["attention_mask"][line, length:] = 0
    return batch | {"labels": labels, "filler": sum(n for row, n in zip(rows, lengths, strict=True) if row.get("blank"))}


def token_losses(model: nn.Module, batch: Batch, *, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every trained token [N], in fp32, and whose row's it is [N]. The head sees no position before the first of them."""
    labels = batch["labels"]
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "filler")}
    there = (labels != IGNORE).any(0).nonzero()
    first = max(1, int(there[0])) if len(there) else labels.shape[1] - 1
    logits = model(**inputs, logits_to_keep=labels.shape[1] - first + 1, use_cache=False).logits[:, :-1]
    taught = labels[:, first:] != IGNORE
    losses = F.cross_entropy(logits[taught].float(), labels[:, first:][taught], reduction="none", label_smoothing=smoothing)
    return losses, taught.nonzero()[:, 0]


@torch.inference_mode()
def row_losses(
    model: Any, seeing: Seeing, items: Sequence[dict[str, Any]], *, tick: Callable[[int], None] = lambda done: None
) -> list[tuple[float, int]]:
    """(loss summed over trained tokens, their number) of each row."""
    found = []
    for first in range(0, len(items), AT_ONCE):
        chosen = items[first : first + AT_ONCE]
        losses, owner = token_losses(model, on(model.device, collate(seeing, [{"rows": [row]} for row in chosen])))
        found += [(float(losses[owner == line].sum()), int((owner == line).sum())) for line in range(len(chosen))]
        tick(first + len(chosen))
    return found


@torch.inference_mode()
def answers(
    model: Any,
    seeing: Seeing,
    prompts: Sequence[Prompt],
    settings: GenerationConfig,
    *,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers, in the order given; prompts of a batch are padded on the left."""
    found = list[str]()
    for first in range(0, len(prompts), batch_size):
        chosen = prompts[first : first + batch_size]
        texts, images = [text for text, _ in chosen], [seen for _, seen in chosen]
        inputs = on(model.device, seeing.inputs(texts, images, padding=True, padding_side="left", return_tensors="pt"))
        out = model.generate(**inputs, generation_config=settings)
        written = seeing.processor.tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        found += [text.strip() for text in written]
        tick(first + len(chosen))
    return found


def on(device: torch.device, batch: Any) -> dict[str, Any]:
    """A batch on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
