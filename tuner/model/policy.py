"""What is learned from answers of the model's own: `of_rewards(task, …)` is the Objective of `grpo`, `rloo` and `online_dpo`.

Each answer is learned from once, by the model that said it (rollouts.py): the ratio of the two is 1, so nothing is clipped. Advantages, KL
and losses are those of TRL 1.16.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from tuner.data.store import IGNORE
from tuner.model.objectives import Batch, Item, Objective
from tuner.model.preferences import likelihoods, of_pairs
from tuner.model.rewards import Score
from tuner.model.rollouts import BLANK, Rollouts, batch_rows
from tuner.schema.preferences import Dpo
from tuner.schema.rewarded import Grpo, OnlineDpo, PolicyLoss, Rewarded


def of_rewards(task: Rewarded, tokenizer: PreTrainedTokenizerBase, score: Score, *, padding_free: bool, at_once: int = 64) -> Objective:
    """What is learned from rewards."""
    acts = Rollouts(task, tokenizer, score, free=padding_free, at_once=at_once)

    def collate(items: list[Item]) -> Batch:
        return {"asked": [item.get("asked") for item in items], "labels": torch.zeros(len(items)), "filler": 0}

    if isinstance(task, OnlineDpo):
        pairs = of_pairs(Dpo(beta=task.beta), tokenizer, padding_free=padding_free)
        return replace(pairs, collate=collate, acts=acts, noted=acts.noted, blank=[{}])
    lost, count = _policy(task)
    return Objective(collate=collate, loss=lost, count=count, blank=[{}], whole=True, acts=acts, noted=acts.noted)


def _policy(task: Rewarded) -> tuple[Callable[[nn.Module, Batch, float], Tensor], Callable[[Batch], Tensor]]:
    """(loss, count) of GRPO and RLOO: the loss is summed over what `count` counts."""
    beta = task.beta if isinstance(task, Grpo) else 0.0
    kind = task.loss_type if isinstance(task, Grpo) else None

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        likely, owner, rows = likelihoods(model, batch, task.temperature)
        worth = batch["advantages"].to(likely)
        if kind is None:  # RLOO: an answer as a whole
            said = likely.new_zeros(rows).index_add(0, owner, likely)
            whole: Tensor = -(worth * (said - said.detach()).exp()).sum()
            return whole
        ratio = (likely - likely.detach()).exp()
        loss = -worth[owner] * ratio
        if beta:
            away = batch["reference"] - likely
            loss = loss + beta * (away.exp() - away - 1) * ratio  # which makes its gradient that of the KL
        if kind is PolicyLoss.grpo:
            loss = loss / torch.bincount(owner, minlength=rows)[owner]
        total: Tensor = loss.sum()
        return total

    def count(batch: Batch) -> Tensor:
        labels: Tensor = batch["labels"]
        tokens: Tensor = (labels[:, 1:] != IGNORE).sum()
        if kind is PolicyLoss.dapo:
            return tokens
        blank = batch["filler"] // len(BLANK["labels"]) if "cu_seq_lens_q" in batch else int((labels == IGNORE).all(1).sum())
        taught = torch.tensor(batch_rows(batch) - blank)
        return taught * task.max_completion_length if kind is PolicyLoss.dr_grpo else taught

    return lost, count
