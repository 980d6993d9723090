"""What is learned where it is not the next token: `of_labels("sequence", "single_label", tokenizer)` -> an Objective for TokenTrainer."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from tuner.data.store import IGNORE
from tuner.schema.task import Problem

# The mean over a batch's words weighs those of short rows more, where such rows are together. NCBI disease, one pass with LoRA, seeds 0 and
# 1: F1 0.41 and 0.39 sorted among 16 batches, 0.46 and 0.59 among 4, 0.58 and 0.54 unsorted; 88, 69 and 45 % of the tokens are no padding.
BLOCK_OF_TOKENS = 4
Item = dict[str, Any]
Batch = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """How rows become a batch, what the batch loses (summed over what is learned of it), and how much that is (`count`).

    `blank`: rows of an item that teaches nothing. `lengths`: tokens of each row, where rows of like length are to be batched together:
    they are sorted among the rows of `block` batches. More leave less padding, and less to chance.
    `outputs`: what the model ends with, in fp32, as the loss takes it.
    `whole`: a batch is not passed in parts, since its rows learn from each other. `acts`: what the model itself adds to the batches of an
    optimizer step before any of them passes, such as answers (drawn by the seed that is passed, so that a resumed training has the same);
    `noted`: sums of what it saw of that, for the log.
    """

    collate: Callable[[list[Item]], Batch]
    loss: Callable[[nn.Module, Batch, float], Tensor]
    count: Callable[[Batch], Tensor]
    blank: list[Item]
    lengths: Any = None
    block: int = 16
    whole: bool = False
    outputs: Callable[[nn.Module, Batch], Tensor] = lambda model, batch: logits_of(model, batch)
    acts: Callable[[Any, list[Batch], int], list[Batch]] | None = None
    noted: Callable[[], dict[str, float]] = dict


def of_labels(head: str, problem: Problem | None, tokenizer: PreTrainedTokenizerBase, *, outputs: int, lengths: Any = None) -> Objective:
    """Cross-entropy of a class (of each text, or of each token), of each class by itself, or the squared error of a number."""
    learned = losing(problem, outputs=outputs)
    blank = {"input_ids": [0], "token_type_ids": [0], "blank": True}
    blank["labels"] = [IGNORE] if head == "token" else learned.blank[0]["labels"]
    block = BLOCK_OF_TOKENS if head == "token" else learned.block
    return replace(learned, collate=Padded(tokenizer), blank=[blank], lengths=lengths, block=block)


def of_spans(tokenizer: PreTrainedTokenizerBase, *, lengths: Any = None) -> Objective:
    """The mean of two cross-entropies over a row's tokens: where an answer begins, and where it ends. Labels are places [rows, 2]."""
    blank = {"input_ids": [0], "token_type_ids": [0], "labels": [IGNORE, IGNORE], "blank": True}
    collate = Padded(tokenizer, each_token=False)
    return Objective(collate=collate, loss=_ends, count=labelled, blank=[blank], lengths=lengths, outputs=ends_of)


def losing(problem: Problem | None, *, outputs: int) -> Objective:
    """Loss and count of a problem; how rows become a batch, and what of a blank one is no label, is for others to say."""
    loss = {None: _classes, Problem.single_label: _classes, Problem.multi_label: _each_class, Problem.regression: _distance}[problem]
    nothing: Any = [math.nan] * outputs if problem is Problem.multi_label else math.nan if problem is Problem.regression else IGNORE
    return Objective(collate=lambda items: {}, loss=loss, count=labelled, blank=[{"labels": nothing}])


class Padded:
    """Rows below each other, padded to the longest; labels too, where each token may have one. `filler`: tokens of blank rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, each_token: bool = True) -> None:
        self.tokenizer, self.each_token = tokenizer, each_token
        self.names = [name for name in ("input_ids", "token_type_ids") if name in tokenizer.model_input_names]

    def __call__(self, items: list[Item]) -> Batch:
        rows = [row for item in items for row in item["rows"]]
        lengths = [len(row["input_ids"]) for row in rows]
        pads = {"input_ids": self.tokenizer.pad_token_id or 0, "token_type_ids": 0, "labels": IGNORE}
        each_token = self.each_token and isinstance(rows[0]["labels"], list) and isinstance(rows[0]["labels"][0], int)
        batch: Batch = {name: _padded([row[name] for row in rows], pads[name], max(lengths)) for name in self.names}
        batch["attention_mask"] = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
        labels = [row["labels"] for row in rows]
        batch["labels"] = _padded(labels, IGNORE, max(lengths)) if each_token else torch.tensor(labels)
        return batch | {"filler": sum(len(row["input_ids"]) for row in rows if row.get("blank"))}


def _padded(rows: list[list[int]], value: int, length: int) -> Tensor:
    return torch.tensor([row + [value] * (length - len(row)) for row in rows])


def labelled(batch: Batch) -> Tensor:
    """Labels that are learned: of classes those that are there, of numbers a row's."""
    labels: Tensor = batch["labels"]
    return (labels != IGNORE).sum() if not labels.is_floating_point() else (~labels.reshape(len(labels), -1)[:, 0].isnan()).sum()


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """The head's outputs in fp32: [rows, labels], or [rows, tokens, labels]."""
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits.float()


def ends_of(model: nn.Module, batch: Batch) -> Tensor:
    """How likely an answer begins, and ends, at each token, in fp32 [rows, tokens, 2]."""
    found = model(**{name: value for name, value in batch.items() if name != "labels"})
    return torch.stack([found.start_logits, found.end_logits], -1).float()


def _ends(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    """Padding is no place: a row loses the same whatever stands beside it."""
    logits = ends_of(model, batch).masked_fill(batch["attention_mask"][:, :, None] == 0, -math.inf)
    return F.cross_entropy(logits, batch["labels"], ignore_index=IGNORE, reduction="sum")


def _classes(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    logits = logits_of(model, batch)
    options: dict[str, Any] = {"ignore_index": IGNORE, "reduction": "sum", "label_smoothing": smoothing}
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), batch["labels"].reshape(-1), **options)


def _each_class(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    there = ~batch["labels"][:, :1].isnan()
    wanted = torch.where(there, batch["labels"], 0.5).float() * (1 - smoothing) + smoothing / 2
    loss = F.binary_cross_entropy_with_logits(logits_of(model, batch), wanted, reduction="none")
    total: Tensor = (loss * there).sum() / wanted.shape[1]
    return total


def _distance(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
    there = ~batch["labels"].isnan()
    away = logits_of(model, batch)[:, 0] - torch.where(there, batch["labels"], 0).float()
    total: Tensor = (away.square() * there).sum()
    return total
