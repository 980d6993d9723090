"""AdaLoRA's part in a training: ranks move after each step, factors are kept orthogonal, and a checkpoint holds what is needed to go on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.errors import TuneError
from tuner.schema.adapter import AdaLora
from tuner.train.checkpoints import PREFIX

FILE = "adalora.safetensors"
SMOOTHED = ("exp_avg_ipt", "exp_avg_unc")  # of each weight how much it matters, and how sure that is


class Allocation(TrainerCallback):
    """Calls PEFT's allocator between the optimizer's step and the next gradients, as it asks to be."""

    def __init__(self, adapter: AdaLora) -> None:
        self.adapter = adapter
        # Modules that lost all their rank are saved as such; PEFT takes them for shards that were not gathered, at every save.
        warnings.filterwarnings("ignore", message=".*LoRA tensor.s. have invalid shape")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """The schedule, now that the number of steps is known. Raises TuneError (code 2) when it has no step for its work"""
        allocator, steps = model.base_model.rankallocator, state.max_steps
        config = allocator.peft_config
        config.tinit = steps // 10 if self.adapter.tinit is None else self.adapter.tinit
        config.tfinal = steps * 3 // 10 if self.adapter.tfinal is None else self.adapter.tfinal
        config.deltaT = self.adapter.deltaT
        if config.tinit + config.tfinal >= steps:
            what = f"AdaLoRA has no step to cut ranks: {config.tinit} before and {config.tfinal} after, of {steps}"
            raise TuneError(what, "adapter.tinit", "lower `adapter.tinit` or `adapter.tfinal`, or train longer")
        allocator.set_total_step(steps)

    def on_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """`state` counts the steps before this one."""
        model.base_model.update_and_allocate(state.global_step + 1)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """Before the checkpoint is sealed: PEFT has written what the ranks leave, and to go on all of it is needed."""
        if not state.is_world_process_zero:  # all ranks have the same
            return
        folder, allocator = Path(args.output_dir or "") / f"{PREFIX}{state.global_step}", model.base_model.rankallocator
        config = allocator.peft_config
        ranks, config.rank_pattern = config.rank_pattern, None
        model.save_pretrained(str(folder))
        config.rank_pattern = ranks
        smoothed = {f"{part}/{weight}": tensor.contiguous() for part in SMOOTHED for weight, tensor in getattr(allocator, part).items()}
        save_file(smoothed, str(folder / FILE), metadata={"ranks": json.dumps(ranks)})


def restore(model: Any, checkpoint: Path) -> None:
    """The ranks and the allocator's memory as they were at a checkpoint, whose weights are loaded."""
    allocator = model.base_model.rankallocator
    with safe_open(str(checkpoint / FILE), framework="pt", device=str(model.device)) as kept:
        allocator.peft_config.rank_pattern = json.loads(kept.metadata()["ranks"])
        for name in kept.keys():  # noqa: SIM118  (no mapping)
            smoothed, weight = name.split("/")
            getattr(allocator, smoothed)[weight] = kept.get_tensor(name)
            allocator.ipt[weight] = torch.zeros_like(kept.get_tensor(name))  # PEFT asks by it whether it knows the weight


def penalty(model: nn.Module, adapter: AdaLora) -> Tensor:
    """`orth_reg_weight` times the mean distance of the factors from orthogonal ones. PEFT's own would be added once a micro-batch."""
    distances = []
    for name, factor in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            square = factor @ factor.T if "lora_A" in name else factor.T @ factor
            distances.append(torch.linalg.matrix_norm(square - torch.eye(len(square), device=square.device, dtype=square.dtype)))
    return adapter.orth_reg_weight * torch.stack(distances).mean()
