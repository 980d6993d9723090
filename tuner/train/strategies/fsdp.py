"""`hardware: fsdp`: FSDP2 by Accelerate's FullyShardedDataParallelPlugin; tensor and context parallel by its ParallelismConfig."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.parallelism_config import ParallelismConfig
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers import TrainingArguments
from transformers.distributed.configuration_utils import DistributedConfig

from tuner.schema.hardware import Fsdp
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Precision
from tuner.train.strategies.base import PLAIN, Strategy
from tuner.train.together import world_size

RECOMPUTED = "_checkpoint_wrapped_module."  # a part of a name where blocks are recomputed
WRAP = {"auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "transformer_layer_cls_to_wrap": None}  # the model's own blocks


def parallelism(hardware: Fsdp, processes: int) -> ParallelismConfig:
    """How so many processes are laid out: what is left after copies and context parallel is cut as FSDP cuts."""
    shard = processes // (hardware.dp_replicate_size * hardware.cp_size)
    return ParallelismConfig(dp_replicate_size=hardware.dp_replicate_size, dp_shard_size=shard, cp_size=hardware.cp_size)


class Sharded(Strategy):
    """Weights, gradients and states cut over devices."""

    def types(self, hardware: Fsdp) -> frozenset[str]:
        """Its own; where Transformers has cut the model, Accelerate takes it for a whole one."""
        return PLAIN if hardware.tp_size > 1 else frozenset({"FSDP"})

    def arguments(self, recipe: Recipe) -> dict[str, Any]:
        """The plugin by Transformers' `fsdp_config`; recomputation is FSDP's own, which gathers no block twice."""
        hardware, trainer = recipe.hardware, recipe.trainer
        assert isinstance(hardware, Fsdp)
        if hardware.tp_size > 1:  # Transformers cuts such a model as it loads it, and tells Accelerate
            return {}
        config = WRAP | {
            "version": 2,
            "reshard_after_forward": hardware.reshard_after_forward,
            "cpu_offload": hardware.cpu_offload,
            "cpu_ram_efficient_loading": hardware.cpu_ram_efficient_loading,
            "state_dict_type": f"{hardware.state_dict_type.value.upper()}_STATE_DICT",
            "activation_checkpointing": trainer.activation_checkpointing,
        }
        found: dict[str, Any] = {"fsdp": True, "fsdp_config": config, "activation_checkpointing": False}
        if max(hardware.dp_replicate_size, hardware.cp_size) > 1:
            found["parallelism_config"] = parallelism(hardware, world_size())
        return found

    def adjust(self, args: TrainingArguments, recipe: Recipe) -> None:
        """Gradients are added up in fp32, and the loss stays so: Accelerate's own policy casts both to the compute format."""
        compute = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}.get(recipe.trainer.precision)
        if compute is not None and args.fsdp_plugin_args is not None:
            policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
            args.fsdp_plugin_args["mixed_precision_policy"] = policy

    def environment(self, hardware: Fsdp) -> dict[str, str]:
        """Transformers looks at these as it loads a model: all but one process then read no weights."""
        if hardware.tp_size > 1:
            return {}
        return {
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": "2",
            "FSDP_CPU_RAM_EFFICIENT_LOADING": str(hardware.cpu_ram_efficient_loading).lower(),
        }

    def loading(self, hardware: Fsdp) -> dict[str, Any]:
        """Tensor parallel: matrices are cut by the model's own plan, and what is left of the processes cuts as FSDP does."""
        if hardware.tp_size == 1:
            return {}
        shard = world_size() // (hardware.dp_replicate_size * hardware.tp_size)
        layout = DistributedConfig(tp_size=hardware.tp_size, fsdp_size=shard, dp_replicate_size=hardware.dp_replicate_size)
        return {"distributed_config": layout}

    def whole(self, model: nn.Module) -> dict[str, Tensor]:
        """Gathered on the CPU, one at a time; every process must call it."""
        found = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                value: Any = parameter.detach()
                found[name.replace(RECOMPUTED, "")] = (value.full_tensor() if isinstance(value, DTensor) else value).cpu()
        return found


STRATEGY = Sharded()
