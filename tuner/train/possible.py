"""What can be told of a training without weights: `possible_here(recipe, device)`, asked by `tune check` and before anything else."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoModel

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.model.adapt import quantization
from tuner.model.continued import same_base
from tuner.model.heads import HEADS
from tuner.model.kernels import fusable
from tuner.model.kinds import fits
from tuner.model.load import DTYPES, load_config
from tuner.schema.adapter import Beside
from tuner.schema.hardware import Distributed
from tuner.schema.recipe import Recipe
from tuner.schema.teacher import KEY, teacher_of
from tuner.train.args import possible_on
from tuner.train.compiled import compiler_here
from tuner.train.optimizers import ready
from tuner.train.ranks import processes


def possible_here(recipe: Recipe, device: torch.device) -> None:
    """Raises TuneError for packages, devices and formats that are not here, and an adapter of another base."""
    if isinstance(recipe.hardware, Distributed):
        processes(recipe.hardware, device)
    quantization(recipe.adapter, DTYPES[recipe.model.dtype])
    if isinstance(recipe.adapter, Beside) and recipe.adapter.continue_from:
        same_base(recipe.model, Path(recipe.adapter.continue_from))
    possible_on(recipe.trainer, device)
    if recipe.trainer.torch_compile:
        compiler_here(device)
    fusable(recipe.hardware.fused_kernels, device)
    ready(recipe.trainer.optim, device)


def of_its_kind(run: Run) -> None:
    """Raises TuneError (code 2) for a model, or a teacher, that is not made for what the task asks of it: before a row is looked at."""
    task, teacher = run.recipe.task, teacher_of(run.recipe)
    fits(run.recipe.model, task, at="model.id", progress=run.tell)
    if teacher is not None:
        fits(teacher, task, at=KEY, progress=run.tell)


PLACES = ("position_embeddings", "wpe", "embed_positions")  # what a table of positions is called (BERT, GPT-2, BART)


def has_places(run: Run, length: int) -> None:
    """Raises TuneError (code 3) where the longest row has more tokens than the model has learned positions; others are computed."""
    if HEADS[run.recipe.task.head].auto is None:  # a part of a pipeline
        return
    config = load_config(run.recipe.model, progress=run.tell)
    known = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not known or length <= known - 2:  # some of a table may be for no token
        return
    with torch.device("meta"):
        empty = AutoModel.from_config(config)
    tables = [m for name, m in empty.named_modules() if isinstance(m, nn.Embedding) and name.rpartition(".")[2] in PLACES]
    # RoBERTa counts from behind its padding, BART and OPT from 2.
    rooms = [t.num_embeddings - (getattr(t, "offset", 0) or (0 if t.padding_idx is None else t.padding_idx + 1)) for t in tables]
    if rooms and min(rooms) < length:
        what = f"the longest row has {length} tokens, and {run.recipe.model.id} knows {min(rooms)} positions"
        raise TuneError(what, "task.max_length", f"set `task.max_length={min(rooms)}`", code=GATE)
