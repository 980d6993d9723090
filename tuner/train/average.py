"""Averaged weights, which are measured and kept instead of the last step's: `Ema(decay)`, and schedule-free optimizers (`settle`)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.schema.trainer import SCHEDULE_FREE, Optim
from tuner.train.checkpoints import PREFIX

FILE = "ema.safetensors"


class Ema(TrainerCallback):
    """A moving average of what is trained, over the last 1 / (1 - decay) steps or so; over fewer in the first ones."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, Tensor] = {}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """From the weights as they are, or from the checkpoint that training goes on from."""
        trained = _trained(model)
        kept = Path(args.output_dir or "") / f"{PREFIX}{state.global_step}" / FILE
        found = load_file(str(kept)) if state.global_step else {name: p.detach() for name, p in trained.items()}
        self.average = {name: value.to(trained[name].device, torch.float32, copy=True) for name, value in found.items()}

    @torch.no_grad()
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """`state` counts the step that ended."""
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        trained = _trained(model)
        torch._foreach_lerp_(list(self.average.values()), [trained[name].float() for name in self.average], 1 - decay)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before the checkpoint is sealed; all ranks have the same."""
        if not state.is_world_process_zero:
            return
        save_file(self.average, str(Path(args.output_dir or "") / f"{PREFIX}{state.global_step}" / FILE))

    @contextlib.contextmanager
    def measured(self, model: nn.Module) -> Iterator[None]:
        """Within it, the model has the averaged weights."""
        trained = _trained(model)
        last = {name: trained[name].detach().clone() for name in self.average}
        _give(model, self.average)
        try:
            yield
        finally:
            _give(model, last)


def settle(trainer: Trainer, model: nn.Module, optim: Optim, checkpoint: Path | None) -> None:
    """Give the model the averaged weights, if any: of the last step, or as they were at the checkpoint whose weights it has."""
    ema = next((c for c in trainer.callback_handler.callbacks if isinstance(c, Ema)), None)
    if ema is not None:
        _give(model, load_file(str(checkpoint / FILE)) if checkpoint else ema.average)
    if optim in SCHEDULE_FREE:
        if checkpoint is not None:
            trainer.optimizer = trainer.optimizer or trainer.create_optimizer()
            trainer.optimizer.load_state_dict(torch.load(checkpoint / "optimizer.pt", map_location=trainer.args.device, weights_only=True))
        cast(Any, trainer.optimizer).eval()


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@torch.no_grad()
def _give(model: nn.Module, values: dict[str, Tensor]) -> None:
    trained = _trained(model)
    for name, value in values.items():
        trained[name].copy_(value)
