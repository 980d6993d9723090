"""`hardware: deepspeed`: ZeRO through Accelerate's DeepSpeedPlugin; what is "auto" Transformers fills in from its arguments."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from accelerate.parallelism_config import ParallelismConfig
from accelerate.utils import DeepSpeedSequenceParallelConfig
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.hardware import DeepSpeed
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Precision
from tuner.train.strategies.base import Strategy
from tuner.train.together import world_size


def configuration(recipe: Recipe, hardware: DeepSpeed) -> dict[str, Any]:
    """DeepSpeed's own configuration. The optimizer stays PyTorch's: DeepSpeed's need a compiler."""
    zero: dict[str, Any] = {"stage": hardware.zero_stage, "overlap_comm": True, "contiguous_gradients": True}
    if hardware.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if hardware.offload_param:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    if hardware.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": recipe.trainer.precision is Precision.bf16},
        "fp16": {"enabled": recipe.trainer.precision is Precision.fp16},
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }


def parallelism(hardware: DeepSpeed, length: int, processes: int) -> ParallelismConfig:
    """Rows cut over `sp_size` processes, which Ulysses does; copies of that make up the rest."""
    handler = DeepSpeedSequenceParallelConfig(sp_seq_length=length, sp_seq_length_is_variable=True, sp_attn_implementation="sdpa")
    return ParallelismConfig(sp_size=hardware.sp_size, dp_replicate_size=processes // hardware.sp_size, sp_handler=handler)


class Zero(Strategy):
    """States, gradients and weights cut over devices, as far as the stage says."""

    def types(self, hardware: DeepSpeed) -> frozenset[str]:
        """Its own."""
        return frozenset({"DEEPSPEED"})

    def arguments(self, recipe: Recipe) -> dict[str, Any]:
        """Raises TuneError (code 4) where DeepSpeed is not installed."""
        hardware = recipe.hardware
        assert isinstance(hardware, DeepSpeed)
        try:
            load("deepspeed")
        except ImportError as error:
            raise TuneError("hardware=deepspeed needs DeepSpeed", "hardware", "pip install 'tuner[deepspeed]'", code=ENVIRONMENT) from error
        found: dict[str, Any] = {"deepspeed": configuration(recipe, hardware)}
        if hardware.sp_size > 1:
            found["parallelism_config"] = parallelism(hardware, recipe.task.max_length, world_size())
        return found

    def environment(self, hardware: DeepSpeed) -> dict[str, str]:
        """DeepSpeed writes of itself at every step, unless told not to."""
        return {"DEEPSPEED_LOG_LEVEL": "warning", "DS_SKIP_CUDA_CHECK": "1"}

    def whole(self, model: nn.Module) -> dict[str, Tensor] | None:
        """Gathered where stage 3 cut them; every process must call it. None where every process has them."""
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not any(hasattr(p, "ds_id") for p in trained.values()):
            return None
        found = {}
        for name, parameter in trained.items():
            with load("deepspeed").zero.GatheredParameters([parameter]) if hasattr(parameter, "ds_id") else nullcontext():
                found[name] = parameter.detach().cpu().clone()
        unset_hf_deepspeed_config()  # what is loaded from here on is whole
        return found


STRATEGY = Zero()
