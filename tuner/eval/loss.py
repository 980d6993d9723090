"""Held-out loss row by row: `row_losses(model, rows)` -> (loss summed over trained tokens, their number) of each row.

`row_divergences(model, teacher, rows)` gives KL(teacher ‖ model) likewise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from tuner.data.chat import TokenRow
from tuner.model.adapt import measuring
from tuner.model.distilled import divergence

TOKENS_PER_BATCH = 2048
CHUNK = 256  # positions whose logits are held at once: those of a whole batch were the peak of a small training


Tick = Callable[[int], None]
Measure = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@torch.inference_mode()
def row_losses(model: Any, rows: list[TokenRow], *, tick: Tick = lambda done: None) -> list[tuple[float, int]]:
    """Cross-entropy in nats of every trained token, in padded batches of like length. Only trained positions pass the head."""

    def lost(ids: torch.Tensor, mask: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        targets = ids[:, 1:][predicted].split(CHUNK)
        found = zip(_logits(model, ids, mask, predicted), targets, strict=True)
        return torch.cat([cross_entropy(logits, target, reduction="none") for logits, target in found])

    return _by_row(lost, rows, model.device, tick)


def token_loss(model: Any, rows: list[TokenRow]) -> float:
    """Mean loss in nats a token of some rows, as a task's `probe` gives it."""
    found = row_losses(measuring(model), rows)
    return sum(total for total, _ in found) / max(1, sum(count for _, count in found))


@torch.inference_mode()
def row_divergences(model: Any, teacher: Any, rows: list[TokenRow], *, tick: Tick = lambda done: None) -> list[tuple[float, int]]:
    """KL(teacher ‖ model) in nats of every trained token, over the tokens that both know."""

    def away(ids: torch.Tensor, mask: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        both = zip(_logits(model, ids, mask, predicted), _logits(teacher, ids, mask, predicted), strict=True)
        return torch.cat([divergence(ours, theirs, beta=0.0, temperature=1.0) for ours, theirs in both])

    return _by_row(away, rows, model.device, tick)


def _by_row(measure: Measure, rows: list[TokenRow], device: Any, tick: Tick) -> list[tuple[float, int]]:
    """What is measured of trained tokens, summed over each row's, and their number."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i].ids))
    found: list[tuple[float, int]] = [(0.0, 0)] * len(rows)
    first = 0
    while first < len(order):
        width = len(rows[order[first]].ids)
        chosen = order[first : first + max(1, TOKENS_PER_BATCH // width)]
        ids = torch.zeros(len(chosen), width, dtype=torch.long)
        mask = torch.zeros(len(chosen), width, dtype=torch.long)
        trained = torch.zeros(len(chosen), width, dtype=torch.bool)
        for line, index in enumerate(chosen):
            length = len(rows[index].ids)
            ids[line, :length] = torch.from_numpy(rows[index].ids.astype("int64"))
            trained[line, :length] = torch.from_numpy(rows[index].trained)
            mask[line, :length] = 1
        measured = measure(ids.to(device), mask.to(device), trained[:, 1:].to(device))
        counts = trained[:, 1:].sum(1).tolist()
        for index, part in zip(chosen, measured.split(counts), strict=True):
            found[index] = (float(part.sum()), len(part))
        first += len(chosen)
        tick(first)
    return found


def _logits(model: Any, ids: torch.Tensor, mask: torch.Tensor, predicted: torch.Tensor) -> Iterator[torch.Tensor]:
    """Logits in fp32 before each token marked in `predicted` [rows, width - 1], in row order, CHUNK positions at a time."""
    prompted = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    if prompted:  # its vectors stand before the text, or before the keys
        yield from model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] : -1][predicted].float().split(CHUNK)
        return
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][predicted]
    head, cap = causal.get_output_embeddings(), getattr(causal.config, "final_logit_softcapping", None)
    for part in hidden.split(CHUNK):
        logits = head(part).float()
        yield torch.tanh(logits / cap) * cap if cap else logits
