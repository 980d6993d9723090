"""`trainer.torch_compile`: a model's blocks compiled for one shape, the attention left as it is: `with compiled(model): …`.

Batches are laid end to end and filled up to one length, so that nothing is compiled twice. The blocks are compiled in place, and are
themselves again afterwards: no name in a checkpoint changes.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed


def compiler_here(device: torch.device) -> None:
    """Compile a function for this device and run it. Raises TuneError (code 4) where that fails, or is turned off by the environment.

    Looking for `g++` alone would miss headers, Triton and the variables that turn PyTorch's compiler off.
    """
    unseen = float(time.time_ns() % 10**9)  # what a cache holds needs no compiler
    try:
        torch.compile(lambda x: (x.sin() * unseen).sum(), fullgraph=True, dynamic=False)(torch.ones(64, device=device))
    except RuntimeError as error:
        compiler = "a C++ compiler (`apt install g++`, or its name in CXX)" if device.type == "cpu" else "Triton and a C compiler"
        fix = f"it needs {compiler}, and no TORCH_COMPILE_DISABLE; or leave `trainer.torch_compile` out"
        raise TuneError(
            f"torch.compile does not work here: {_first_line(error)}", "trainer.torch_compile", fix, code=ENVIRONMENT
        ) from error


@contextlib.contextmanager
def compiled(model: Any, *, wanted: bool) -> Iterator[None]:
    """Within it the blocks are compiled, where that is wanted. Raises TuneError (code 2) where they are not of one shape after all.

    Left alone, PyTorch goes on uncompiled after eight shapes of one function, and tells nobody.
    """
    if not wanted:
        yield
        return
    blocks = _blocks(model)
    AttentionInterface.register(packed.ATTENTION, torch.compiler.disable(packed.attention))
    for block in blocks:
        block.compile(dynamic=False)
    try:
        with torch._dynamo.config.patch(fail_on_recompile_limit_hit=True):
            yield
    except torch._dynamo.exc.FailOnRecompileLimitHit as error:
        what = "one function of this model is compiled for more than eight shapes"
        raise TuneError(what, "trainer.torch_compile", "leave it out") from error
    except torch._dynamo.exc.TorchDynamoException as error:
        what = f"the blocks of this model cannot be compiled: {_first_line(error)}"
        raise TuneError(what, "trainer.torch_compile", "leave it out", code=ENVIRONMENT) from error
    finally:
        for block in blocks:
            block._compiled_call_impl = None
        packed.register()


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _blocks(model: Any) -> list[nn.Module]:
    """The decoder's blocks. Raises TuneError (code 2) for a model that has no list of them."""
    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = getattr(causal.base_model, "layers", None)
    if not isinstance(found, nn.ModuleList):
        raise TuneError("this model's blocks are not found", "trainer.torch_compile", "leave it out")
    return list(found)
