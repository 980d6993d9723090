"""Checkpoints written while training goes on: `writer.later(job)` … `writer.start()`; what is saved is copied first.

Only the copy (of what is trained, and of the optimizer's state, to CPU memory) keeps training waiting. Files are written, summed and
sealed in a thread, one checkpoint at a time; an error there is raised in the training thread at the next step.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.errors import ENVIRONMENT, TuneError
from tuner.train.checkpoints import PREFIX, all_checkpoints, rotate, seal, sealed, step_of

FULL_BYTES = 1 << 20
WRITE_ERRORS = (OSError, SafetensorError)
TORCH_WRITES = ("PytorchStreamWriter", "inline_container", "directory")  # what torch.save says, in a RuntimeError


class Writer:
    """Jobs of one checkpoint at a time, in a thread of their own; at once and in the caller's where not `background`."""

    def __init__(self, *, background: bool = True) -> None:
        self.background = background
        self.jobs: list[Callable[[], object]] = []
        self.folder = Path()
        self.thread: threading.Thread | None = None
        self.error: BaseException | None = None

    def begin(self, folder: Path) -> None:
        """A new checkpoint; the one before is awaited. Raises what went wrong with it."""
        self.wait()
        self.folder, self.jobs = folder, []

    def later(self, job: Callable[[], object]) -> None:
        """Do this after `start`, after the jobs before it."""
        self.jobs.append(job)

    def start(self) -> None:
        """Do all jobs."""
        if not self.background:
            self._work()
            self.check()
            return
        # No daemon: an interpreter that ends waits for it, and the checkpoint is whole.
        self.thread = threading.Thread(target=self._work, name="checkpoint")
        self.thread.start()

    def _work(self) -> None:
        try:
            while self.jobs:
                self.jobs.pop(0)()  # what a job holds is freed once it is written
        except BaseException as error:
            self.error, self.jobs = error, []

    def check(self) -> None:
        """Raise what went wrong, as TuneError (code 4) where the disk is to blame."""
        if self.error is not None:
            error, self.error = self.error, None
            raise explained(error, self.folder) from error

    def wait(self) -> None:
        """Until all is written; then as `check`."""
        self.join()
        self.check()

    def join(self) -> None:
        """Until nothing is being written."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None


def explained(error: BaseException, folder: Path) -> BaseException:
    """A failed write as what a person can do about it, the torn checkpoint deleted; any other error as it is."""
    torch_s = isinstance(error, RuntimeError) and any(word in str(error) for word in TORCH_WRITES)
    if not torch_s and not isinstance(error, WRITE_ERRORS):
        return error
    full = shutil.disk_usage(folder.parent).free < FULL_BYTES  # PyTorch says only that it wrote less than it should
    shutil.rmtree(folder, ignore_errors=True)
    kept = [c for c in all_checkpoints(folder.parent) if sealed(c)]
    state = f"the checkpoint of step {step_of(kept[-1])} is kept" if kept else "there is no earlier one"
    reason = (isinstance(error, OSError) and error.strerror) or (os.strerror(errno.ENOSPC) if full else str(error).splitlines()[0])
    what = f"the checkpoint of step {step_of(folder)} cannot be written: {reason}; {state}"
    fix = "free some space (`tune gc`), or set output_dir to a folder you can write; the same command then goes on"
    return TuneError(what, str(folder), fix, code=ENVIRONMENT)


def snapshot(tree: Any) -> Any:
    """The same tree, its tensors copied to CPU memory. Tensors that are one stay one."""
    copies: dict[Any, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        name = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if name not in copies:
            copies[name] = tensor.detach().to("cpu", copy=True)
        return copies[name]

    return tree_map_only(Tensor, copied, tree)


def changing(model: nn.Module) -> dict[str, Any]:
    """The model's state, with copies of what training changes; what is frozen is itself, and not copied."""
    state: dict[str, Any] = dict(model.state_dict())
    frozen = {name for name, parameter in model.named_parameters(remove_duplicate=False) if not parameter.requires_grad}
    buffers = {name for name, _ in model.named_buffers(remove_duplicate=False)}
    moving = {name for name, _ in model.named_parameters(remove_duplicate=False)} - frozen | buffers
    copies: dict[str, Any] = snapshot({name: tensor for name, tensor in state.items() if name in moving})
    return state | copies


class SavesBehind(Trainer):
    """Transformers' Trainer whose checkpoints are written by `writer`, where one is set, and started by who seals them (on_save)."""

    writer: Writer | None = None

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir or "") / f"{PREFIX}{self.state.global_step}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.writer is not None:
                self.writer.begin(folder)
            super()._save_checkpoint(model, trial)
        except (RuntimeError, *WRITE_ERRORS) as error:
            raise explained(error, folder) from error
        self.accelerator.wait_for_everyone()  # each rank writes its random state

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Weights, tokenizer, arguments."""
        if self.writer is None or state_dict is not None or not self.args.should_save:
            super()._save(output_dir, state_dict)
        else:
            self.writer.later(partial(super()._save, output_dir, changing(self.accelerator.unwrap_model(self.model))))

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if self.writer is None or self.is_fsdp_enabled or self.is_deepspeed_enabled or not self.args.should_save:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        parts: dict[str, Any] = {"optimizer.pt": self.optimizer, "scheduler.pt": self.lr_scheduler}
        for name, part in parts.items():
            self.writer.later(partial(torch.save, snapshot(part.state_dict()), str(Path(output_dir) / name)))


class SaveFirst(TrainerCallback):
    """Saves after the first step of a training, so that a save that will fail does so now and not after an hour."""

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Unless checkpoints are only wanted when interrupted."""
        if state.global_step == 1 and args.save_strategy != "no":
            control.should_save = True


class Checkpoints(TrainerCallback):
    """Seals each checkpoint once it is written, tells `sealed` its step, deletes the old. `best` ones stay besides."""

    def __init__(self, keep: int, writer: Writer, sealed: Callable[[int], object] = lambda step: None) -> None:
        self.keep, self.writer, self.sealed = keep, writer, sealed
        self.first = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """What went wrong with the last one is told now; the next waits for it."""
        self.writer.check()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Transformers has written `checkpoint-<step>`, or handed it to the writer. The first one of a session is awaited."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir or "")
        checkpoint = folder / f"{PREFIX}{state.global_step}"
        if self.writer.folder != checkpoint:  # a trainer that writes all by itself
            self.writer.begin(checkpoint)
        best = folder / f"{PREFIX}{state.best_global_step}" if state.best_global_step else None
        self.writer.later(partial(seal, checkpoint))
        self.writer.later(partial(self.sealed, state.global_step))
        self.writer.later(partial(rotate, folder, keep=self.keep, best=best))
        self.writer.start()
        if self.first:
            self.writer.wait()
        self.first = False
