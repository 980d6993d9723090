"""Models that read a text and write another: `of_written(start, tokenizer)` is what they learn, `targets(…)` what they write."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from tuner.data.store import IGNORE
from tuner.data.written import WrittenRow, as_item
from tuner.errors import TuneError
from tuner.model.objectives import Batch, Item, Objective

BATCH_TOKENS = 8192


def start_of(model: Any) -> int:
    """The token that every target begins with. Raises TuneError (code 2) for a model that says none."""
    found = [c.decoder_start_token_id for c in (model.config, model.generation_config)]
    start = next((token for token in found if token is not None), None)
    if start is None:
        raise TuneError("the model's config.json has no decoder_start_token_id", "model.id", "add it there: the padding token's id for T5")
    return int(start)


def of_written(start: int, tokenizer: PreTrainedTokenizerBase, lengths: Any = None) -> Objective:
    """Cross-entropy of the target's tokens, each after `start` and those before it."""
    pad = tokenizer.pad_token_id or 0

    def collate(items: list[Item]) -> Batch:
        rows = [row for item in items for row in item["rows"]]
        sources, targets = [row["input_ids"] for row in rows], [row["labels"] for row in rows]
        blank = sum(len(row["input_ids"]) for row in rows if row.get("blank"))
        return {
            "input_ids": _padded(sources, pad),
            "attention_mask": _padded([[1] * len(ids) for ids in sources], 0),
            "decoder_input_ids": _padded([[start, *(pad if i == IGNORE else i for i in ids[:-1])] for ids in targets], pad),
            "labels": _padded(targets, IGNORE),
            # Tokens are counted by the mask, which is that of the sources: targets count as well.
            "filler": blank - sum(len(row["labels"]) for row in rows if not row.get("blank")),
        }

    empty = {"input_ids": [pad], "labels": [IGNORE], "blank": True}
    return Objective(collate=collate, loss=_loss, count=lambda batch: (batch["labels"] != IGNORE).sum(), blank=[empty], lengths=lengths)


def _padded(rows: list[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def _loss(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    return _token_losses(model, batch, smoothing).sum()


def _token_losses(model: nn.Module, batch: Batch, smoothing: float = 0.0) -> Tensor:
    """Of each token of the targets [rows, tokens]; 0 where there is none."""
    # Without labels the model gives logits alone: its own loss would be computed for nothing.
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}, use_cache=False).logits
    options: dict[str, Any] = {"ignore_index": IGNORE, "reduction": "none", "label_smoothing": smoothing}
    return F.cross_entropy(logits.float().transpose(1, 2), batch["labels"], **options)


@torch.inference_mode()
def row_losses(
    model: Any, rows: Sequence[WrittenRow], objective: Objective, *, tick: Callable[[int], None] = lambda done: None
) -> list[tuple[float, int]]:
    """(loss in nats summed over the target, its tokens) of each row, in batches of like length."""
    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    device, batches = next(model.parameters()).device, list[list[int]]()
    for index in sorted(range(len(rows)), key=lambda i: -len(rows[i].source)):
        if not batches or (len(batches[-1]) + 1) * len(rows[batches[-1][0]].source) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(index)
    done = 0
    for chosen in batches:
        batch = objective.collate([{"rows": [as_item(rows[i])]} for i in chosen])
        losses = _token_losses(model, {name: value.to(device) for name, value in batch.items() if name != "filler"})
        for index, loss in zip(chosen, losses.sum(1).tolist(), strict=True):
            found[index] = (loss, len(rows[index].target))
        done += len(chosen)
        tick(done)
    return found


@torch.inference_mode()
def targets(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    sources: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """What the model writes of each source, greedily, in the order given; sources of like length share a batch."""
    config = copy.deepcopy(model.generation_config)  # which knows how its targets begin, and what it must not write
    config.update(do_sample=False, num_beams=1, early_stopping=None, length_penalty=None, max_length=None, min_new_tokens=None)
    config.update(temperature=None, top_p=None, top_k=None, max_new_tokens=max_new_tokens, decoder_start_token_id=start_of(model))
    config.min_length = min(config.min_length or 0, max_new_tokens)
    pad, result = tokenizer.pad_token_id or 0, [""] * len(sources)
    config.pad_token_id = pad
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    for first in range(0, len(order), batch_size):
        chosen = [[int(token) for token in sources[i]] for i in order[first : first + batch_size]]
        ids, mask = _padded(chosen, pad), _padded([[1] * len(row) for row in chosen], 0)
        out = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
        for index, text in zip(order[first:], tokenizer.batch_decode(out, skip_special_tokens=True), strict=False):
            result[index] = text.strip()
        tick(first + len(chosen))
    return result
