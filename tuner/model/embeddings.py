"""Vectors of texts: `pooler(model, task, progress=…)` makes one of a text's tokens, `of_likeness(…)` is what is learned of them.

Pooling and CoSENT are sentence-transformers', given the vectors of a model that is trained as any other here; what is saved is its layout.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from tuner.errors import ENVIRONMENT, TuneError
from tuner.model.objectives import Batch, Item, Objective
from tuner.model.sources import fetch
from tuner.registry import load
from tuner.schema.model import Model
from tuner.schema.task import Embed, Pooling

BATCH_TOKENS = 8192
NO_TEXT = [0]  # stands where a row has fewer texts than others
MARGIN = 0.95  # of the likeness to what is right: what is nearer may be right as well
MODULES = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]


def library(module: str = "sentence_transformers") -> Any:
    """sentence-transformers. Raises TuneError (code 4) when it is missing."""
    try:
        return load(module)
    except ImportError as error:
        raise TuneError("`task: embed` needs sentence-transformers", "task", "pip install 'tuner[embed]'", code=ENVIRONMENT) from error


def pooler(model: Model, config: PretrainedConfig, task: Embed, *, progress: Any) -> nn.Module:
    """What makes one vector of the tokens' vectors: as the recipe says, else the model's own files, else the mean."""
    cls, mode = library().sentence_transformer.modules.Pooling, task.pooling.value
    if task.pooling is Pooling.auto:
        folder = fetch(model, progress=progress)
        own = folder / "1_Pooling" / "config.json" if folder else _from_hub(model)
        mode = "mean"
        if own is not None and own.is_file():
            return cast(nn.Module, cls.load(str(own.parent)))
    return cast(nn.Module, cls(config.get_text_config().hidden_size, pooling_mode=mode))


def _from_hub(model: Model) -> Path | None:
    hub = load("huggingface_hub")
    try:
        return Path(hub.hf_hub_download(model.id, "1_Pooling/config.json", revision=model.revision))
    except (OSError, ValueError):  # it has none, or the Hub is not there: the model itself will tell
        return None


def vectors(model: nn.Module, batch: Batch, pooling: nn.Module) -> Tensor:
    """Vectors of length 1 in fp32 [texts, size]."""
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    tokens = model(**inputs).last_hidden_state
    pooled = pooling({"token_embeddings": tokens.float(), "attention_mask": inputs["attention_mask"]})["sentence_embedding"]
    return nn.functional.normalize(pooled, dim=-1)


def padded(tokenizer: PreTrainedTokenizerBase, texts: Sequence[Sequence[int]]) -> Batch:
    """Texts below each other, padded to the longest."""
    lengths = torch.tensor([len(text) for text in texts])
    pad, width = tokenizer.pad_token_id or 0, int(lengths.max())
    ids = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
    return {"input_ids": ids, "attention_mask": (torch.arange(width) < lengths[:, None]).long()}


def of_likeness(task: Embed, pooling: nn.Module, tokenizer: PreTrainedTokenizerBase, *, scored: bool, lengths: Any = None) -> Objective:
    """With scores that more alike pairs are nearer (CoSENT); else that what is right is nearer than all else in the batch (InfoNCE)."""
    nothing: Any = nn.Identity()  # what the loss would ask for vectors: it is given them
    cosent = library("sentence_transformers.sentence_transformer.losses").CoSENTLoss(nothing, scale=task.scale)

    def lost(model: nn.Module, batch: Batch, smoothing: float) -> Tensor:
        found, labels = vectors(model, batch, pooling), batch["labels"]
        there = ~labels.isnan()
        if int(there.sum()) < 2:  # nothing to learn from beside it
            return found.sum() * 0.0
        columns = found.reshape(len(labels), -1, found.shape[-1])[there]
        names = batch["text_ids"].reshape(len(labels), -1)[there]
        total: Tensor = found.new_zeros(())
        for size in task.matryoshka_dims or [found.shape[-1]]:
            cut = nn.functional.normalize(columns[..., :size], dim=-1)
            total = total + (
                cosent.compute_loss_from_embeddings([*cut.unbind(1)], labels[there]) if scored else info_nce(cut, names, task.scale)
            )
        learned: Tensor = total * there.sum()
        return learned

    blank = {"texts": [[0], [0]], "labels": math.nan, "blank": True}
    return Objective(collate=partial(_collated, tokenizer), loss=lost, count=_rows, blank=[blank], lengths=lengths, whole=True)


def info_nce(columns: Tensor, names: Tensor, scale: float) -> Tensor:
    """Cross-entropy of finding each row's second text by its first, among the second and further ones of all rows (arXiv:1807.03748).

    `columns`: vectors of length 1 [rows, texts, size]; `names`: a number a text, -1 where a row has none [rows, texts].
    What is the right text once more, or the question itself, is not among them: sentence-transformers' loss takes it for wrong.
    """
    rows = len(columns)
    asked, others, other_names = columns[:, 0], columns[:, 1:].transpose(0, 1).flatten(0, 1), names[:, 1:].T.flatten()
    scores = asked @ others.T * scale
    gone = (other_names < 0) | (other_names == names[:, 1:2]) | (other_names == names[:, :1])
    own = torch.arange(rows, device=columns.device)
    gone[own, own] = False
    return nn.functional.cross_entropy(scores.masked_fill(gone, -torch.inf), own)


def _collated(tokenizer: PreTrainedTokenizerBase, items: list[Item]) -> Batch:
    """All texts of a batch, row by row; `text_ids`: which are the same, -1 where a row has fewer than others."""
    rows = [row for item in items for row in item["rows"]]
    width = max(len(row["texts"]) for row in rows)
    texts = [text for row in rows for text in [*row["texts"], *[NO_TEXT] * (width - len(row["texts"]))]]
    known: dict[tuple[int, ...], int] = {}
    names = [-1 if text is NO_TEXT else known.setdefault(tuple(text), len(known)) for text in texts]
    batch = padded(tokenizer, texts) | {"labels": torch.tensor([row["labels"] for row in rows]), "text_ids": torch.tensor(names)}
    blank = sum(len(text) for row in rows if row.get("blank") for text in row["texts"])
    return batch | {"filler": blank + sum(width - len(row["texts"]) for row in rows)}


def _rows(batch: Batch) -> Tensor:
    count: Tensor = (~batch["labels"].isnan()).sum()
    return count


def encode(
    model: nn.Module,
    texts: Sequence[str],
    pooling: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    tick: Callable[[int], None] = lambda done: None,
) -> NDArray[np.float32]:
    """Vectors of texts [texts, size], those of like length at once."""
    device = next(model.parameters()).device
    ids = [encoding.ids for encoding in tokenizer(list(texts), truncation=True, max_length=max_length).encodings]
    order, first, found = sorted(range(len(ids)), key=lambda i: -len(ids[i])), 0, list[NDArray[np.float32]]()
    while first < len(order):
        chosen = order[first : first + max(1, BATCH_TOKENS // len(ids[order[first]]))]
        batch = {name: value.to(device) for name, value in padded(tokenizer, [ids[i] for i in chosen]).items()}
        with torch.no_grad():
            found.append(vectors(model, batch, pooling).cpu().numpy())
        first += len(chosen)
        tick(first)
    by_length = np.concatenate(found)
    result = np.empty_like(by_length)
    result[order] = by_length
    return result


def mined(encode: Callable[[Sequence[str]], NDArray[np.float32]], anchors: list[str], positives: list[str], count: int) -> list[list[str]]:
    """For each anchor `count` positives of others: the nearest that are clearly less near than its own (https://arxiv.org/abs/2407.15831)."""
    right: dict[str, set[str]] = {}
    for anchor, positive in zip(anchors, positives, strict=True):
        right.setdefault(anchor, set()).add(positive)
    texts = list(dict.fromkeys(positives))
    place = {text: index for index, text in enumerate(texts)}
    table, asked = encode(texts), encode(anchors)
    found = []
    for index, (anchor, positive) in enumerate(zip(anchors, positives, strict=True)):
        near = table @ asked[index]
        limit = MARGIN * float(near[place[positive]])
        order = [int(i) for i in np.argsort(-near, kind="stable") if near[i] < limit and texts[i] not in right[anchor] | {anchor}]
        found.append([texts[i] for i in order[:count]])
    return found


def lay_out(folder: Path, pooling: nn.Module, max_length: int) -> None:
    """Beside weights and tokenizer what makes them a model of sentence-transformers."""
    entries = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{name}"}
        for index, (path, name) in enumerate(MODULES)
    ]
    (folder / "modules.json").write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")
    length = {"max_seq_length": max_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(length, indent=2) + "\n", encoding="utf-8")
    (folder / "config_sentence_transformers.json").write_text(
        json.dumps({"similarity_fn_name": "cosine"}, indent=2) + "\n", encoding="utf-8"
    )
    (folder / "1_Pooling").mkdir(exist_ok=True)
    cast(Any, pooling).save(str(folder / "1_Pooling"))
