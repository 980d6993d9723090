"""What can be told of a training without a model: `possible_here(recipe, device)`, asked by `tune check` and before anything else."""

from __future__ import annotations

from pathlib import Path

import torch

from tuner.model.adapt import quantization
from tuner.model.continued import same_base
from tuner.model.kernels import fusable
from tuner.model.load import DTYPES
from tuner.schema.adapter import Beside
from tuner.schema.hardware import Distributed
from tuner.schema.recipe import Recipe
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
