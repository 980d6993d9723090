"""`trainer.torch_compile`: a model's blocks compiled for one shape, the attention left as it is: `with compiled(model): …`.

Batches are laid end to end and filled up to one length, so that nothing is compiled twice. The blocks are compiled in place, and are
themselves again afterwards: no name in a checkpoint changes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed


def compiler_here() -> None:
    """Raises TuneError (code 4) where there is no C++ compiler, which PyTorch's needs on a CPU and, for its launchers, on a GPU."""
    if not any(shutil.which(name) for name in (os.environ.get("CXX") or "g++", "clang++")):
        fix = "install one (`apt install g++`), name it in CXX, or leave `trainer.torch_compile` out"
        raise TuneError("torch.compile needs a C++ compiler, and there is none", "trainer.torch_compile", fix, code=ENVIRONMENT)


@contextlib.contextmanager
def compiled(model: Any, *, wanted: bool) -> Iterator[None]:
    """Within it the blocks are compiled, where that is wanted."""
    if not wanted:
        yield
        return
    blocks = _blocks(model)
    AttentionInterface.register(packed.ATTENTION, torch.compiler.disable(packed.attention))
    for block in blocks:
        block.compile(dynamic=False)
    try:
        yield
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        packed.register()


def _blocks(model: Any) -> list[nn.Module]:
    """The decoder's blocks. Raises TuneError (code 2) for a model that has no list of them."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = getattr(causal.base_model, "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise TuneError("this model's blocks are not found", "trainer.torch_compile", "leave it out")
    return list(found)
