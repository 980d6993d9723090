"""On PYTHONPATH of ranks: Accelerate takes processes on CPUs for processes on GPUs, and so shards over them (by gloo, for real)."""

from __future__ import annotations

import sys
from typing import Any

if "tuner.rank" in sys.orig_argv:
    import torch
    import torch.distributed as dist
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    real: Any = PartialState._prepare_backend

    def backend_of(self: Any, *args: Any, **options: Any) -> tuple[Any, Any]:
        backend, kind = real(self, *args, **options)
        if kind != DistributedType.MULTI_CPU:
            return backend, kind
        if not dist.is_initialized():
            dist.init_process_group("gloo")
        return backend, DistributedType.MULTI_GPU

    def set_device(self: Any) -> None:
        self.device = torch.device("cpu")

    PartialState._prepare_backend = backend_of  # type: ignore[assignment]
    PartialState.set_device = set_device  # type: ignore[method-assign]
