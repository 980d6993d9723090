"""Losses over two answers, as functions of their log-probabilities: `losses(task, pair)`; `of_pairs(task, …)` is the Objective.

A loss has the form that TRL 1.16 gives it, and its name. Log-probabilities are summed over an answer's tokens; those of the reference are
what the model said before training, computed once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from tuner.data.store import IGNORE
from tuner.model.batches import flat, padded, supervised
from tuner.model.objectives import Batch, Item, Objective
from tuner.schema.preferences import Cpo, Dpo, Kto, Preference, Preferring, SimPo


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Of each pair's answers [pairs]: log-probability, number of tokens, and log-probability before training (0 where there is none)."""

    chosen: Tensor
    rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    chosen_before: Tensor
    rejected_before: Tensor

    @property
    def better(self) -> Tensor:
        """By how much the better answer has become likelier."""
        return self.chosen - self.chosen_before

    @property
    def worse(self) -> Tensor:
        """By how much the worse answer has."""
        return self.rejected - self.rejected_before


def losses(task: Preferring, pair: Pair) -> Tensor:
    """The loss of each pair [pairs]."""
    chosen_mean, rejected_mean = pair.chosen / pair.chosen_tokens, pair.rejected / pair.rejected_tokens
    if isinstance(task, SimPo):
        return -F.logsigmoid(task.beta * (chosen_mean - rejected_mean) - task.margin)
    if isinstance(task, Cpo):
        return -F.logsigmoid(task.beta * (pair.chosen - pair.rejected)) - task.sft_weight * chosen_mean
    if isinstance(task, Dpo):
        return _dpo(task, pair) - task.sft_weight * chosen_mean
    odds = (chosen_mean - rejected_mean) - (_log1mexp(chosen_mean) - _log1mexp(rejected_mean))
    return -chosen_mean - task.beta * F.logsigmoid(odds)


def kto(task: Kto, pair: Pair, liked: Tensor, there: Tensor) -> Tensor:
    """The loss of each answer [pairs], of which the second one is another row's: how much likelier those have become is the level."""
    level = ((pair.worse * there).sum() / there.sum().clamp(min=1)).clamp(min=0).detach()
    gained = task.beta * torch.where(liked, pair.better - level, level - pair.better)
    weight = torch.where(liked, task.desirable_weight, task.undesirable_weight)
    return weight * (1 - torch.sigmoid(gained)) * there


def _log1mexp(value: Tensor) -> Tensor:
    """log(1 - exp(value)) of what is below 0."""
    value = value.clamp(max=-1e-7)
    return torch.where(value > -math.log(2), torch.log(-torch.expm1(value)), torch.log1p(-torch.exp(value)))


def _dpo(task: Dpo, pair: Pair) -> Tensor:
    better, worse, beta, noise = pair.better, pair.worse, task.beta, task.label_noise
    gained = beta * (better - worse)
    by_token = better / pair.chosen_tokens - worse / pair.rejected_tokens
    kinds: Mapping[Preference, Any] = {
        Preference.sigmoid: lambda: -(1 - noise) * F.logsigmoid(gained) - noise * F.logsigmoid(-gained),
        Preference.hinge: lambda: torch.relu(1 - gained),
        Preference.ipo: lambda: (by_token - 1 / (2 * beta)) ** 2,
        Preference.robust: lambda: (-(1 - noise) * F.logsigmoid(gained) + noise * F.logsigmoid(-gained)) / (1 - 2 * noise),
        Preference.sigmoid_norm: lambda: -F.logsigmoid(beta * by_token),
        Preference.apo_zero: lambda: 1 - torch.sigmoid(beta * better) + torch.sigmoid(beta * worse),
        Preference.apo_down: lambda: torch.sigmoid(beta * better) + 1 - torch.sigmoid(gained),
        Preference.nca_pair: lambda: -F.logsigmoid(beta * better) - 0.5 * F.logsigmoid(-beta * better) - 0.5 * F.logsigmoid(-beta * worse),
        Preference.sppo_hard: lambda: (better - 0.5 / beta) ** 2 + (worse + 0.5 / beta) ** 2,
    }
    loss: Tensor = kinds[task.loss_type]()
    return loss


# What a model takes of a batch, laid end to end or padded.
INPUTS = ("input_ids", "attention_mask", "position_ids", "cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k")


def answers(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Of each conversation of a batch the log-probability of its trained tokens, summed, and their number [conversations]."""
    likely, owner, count = likelihoods(model, batch)
    sums: Tensor = likely.new_zeros(count).index_add(0, owner, likely)
    return sums, torch.bincount(owner, minlength=count).to(likely.dtype)


def likelihoods(model: nn.Module, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor, int]:
    """(log-probability of each trained token of a batch, the conversation that each is of [tokens both], the number of conversations)."""
    logits, targets, owner, count = supervised(model, batch)
    return -F.cross_entropy(logits.float() / temperature, targets, reduction="none"), owner, count


def of_pairs(task: Preferring, tokenizer: PreTrainedTokenizerBase, *, padding_free: bool, lengths: Any = None) -> Objective:
    """What is learned from pairs of answers."""
    pads = None if padding_free else padded(tokenizer)

    def collate(items: list[Item]) -> Batch:
        batch = flat(items) if pads is None else pads(items)
        liked = torch.tensor([item.get("liked", True) for item in items])
        return batch | {"reference": torch.tensor([item.get("reference", [0.0, 0.0]) for item in items]), "liked": liked}

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        sums, counts = answers(model, batch)
        (chosen, rejected), (taught, other) = sums.reshape(-1, 2).unbind(1), counts.reshape(-1, 2).unbind(1)
        before, after = batch["reference"].to(sums.dtype).unbind(1)
        there = taught > 0  # a blank pair has nothing to prefer
        tokens = {"chosen_tokens": taught.clamp(min=1), "rejected_tokens": other.clamp(min=1)}
        pair = Pair(chosen=chosen, rejected=rejected, chosen_before=before, rejected_before=after, **tokens)
        return (kto(task, pair, batch["liked"], there) if isinstance(task, Kto) else losses(task, pair) * there).sum()

    blank = {"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "blank": True}
    return Objective(collate=collate, loss=lost, count=_pairs, blank=[blank, blank], lengths=lengths, whole=True)


def of_rewards(tokenizer: PreTrainedTokenizerBase) -> Objective:
    """That the number of the better conversation is above that of the worse one."""

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        better, worse = rewards(model, batch).reshape(-1, 2).unbind(1)
        total: Tensor = (-F.logsigmoid(better - worse) * (batch["labels"][::2, 1:] != IGNORE).any(1)).sum()
        return total

    blank = {"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "blank": True}
    return Objective(collate=padded(tokenizer), loss=lost, count=_pairs, blank=[blank, blank], whole=True)


def rewards(model: nn.Module, batch: Batch) -> Tensor:
    """The number of each conversation of a padded batch, in fp32 [conversations]."""
    logits: Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits[:, 0].float()


def _pairs(batch: Batch) -> Tensor:
    """Pairs of a batch whose answers are there."""
    labels = batch["labels"]
    if "cu_seq_lens_q" not in batch:
        count: Tensor = (labels[::2, 1:] != IGNORE).any(1).sum()
        return count
    starts = batch["cu_seq_lens_q"].tolist()
    found = [bool((labels[0, starts[i] : starts[i + 1]] != IGNORE).any()) for i in range(0, len(starts) - 1, 2)]
    return torch.tensor(sum(found))
