"""Held-out loss row by row: `row_losses(model, rows)` -> (loss summed over trained tokens, their number) of each row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peft import PeftModel
from torch.nn.functional import cross_entropy

from tuner.data.chat import TokenRow

TOKENS_PER_BATCH = 2048
CHUNK = 256  # positions whose logits are held at once: those of a whole batch were the peak of a small training


@torch.inference_mode()
def row_losses(model: Any, rows: list[TokenRow], *, tick: Callable[[int], None] = lambda done: None) -> list[tuple[float, int]]:
    """Cross-entropy in nats of every trained token, in padded batches of like length. Only trained positions pass the head."""
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
        ids, mask, trained = ids.to(model.device), mask.to(model.device), trained.to(model.device)
        losses = _token_losses(model, ids, mask, trained[:, 1:])
        counts = trained[:, 1:].sum(1).tolist()
        for index, part in zip(chosen, losses.split(counts), strict=True):
            found[index] = (float(part.sum()), len(part))
        first += len(chosen)
        tick(first)
    return found


def _token_losses(model: Any, ids: torch.Tensor, mask: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
    """Loss of each token marked in `predicted` [rows, width - 1], in row order."""
    prompted = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    if prompted:  # its vectors stand before the text, or before the keys
        logits = model(input_ids=ids, attention_mask=mask).logits[:, -ids.shape[1] : -1][predicted].float()
        return cross_entropy(logits, ids[:, 1:][predicted], reduction="none")
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    hidden = causal.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1][predicted]
    head, targets = causal.get_output_embeddings(), ids[:, 1:][predicted]
    cap = getattr(causal.config, "final_logit_softcapping", None)
    losses = []
    for part, target in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
        logits = head(part).float()
        losses.append(cross_entropy(torch.tanh(logits / cap) * cap if cap else logits, target, reduction="none"))
    return torch.cat(losses)
