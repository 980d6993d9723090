"""The rules of `checks.py` about `task: diffusion`: what a diffusion model does not read, or is not made for yet."""

from __future__ import annotations

from collections.abc import Iterator

from tuner.schema.adapter import Bias, Full, Init, Lora, QLora
from tuner.schema.base import default_of
from tuner.schema.data import Overlong
from tuner.schema.debug import Overfit
from tuner.schema.diffusion import Diffusion
from tuner.schema.eval import Eval
from tuner.schema.hardware import DeepSpeed, Fsdp
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import PROJECTED, Choice, Precision

Finding = tuple[str, str, str]


def painting(recipe: Recipe) -> Iterator[Finding]:
    """LoRA as diffusers' pipelines load it, or the whole of what is trained, on one device."""
    if not isinstance(recipe.task, Diffusion):
        return
    for key in (key for key, is_asked in _of_texts(recipe).items() if is_asked):
        yield key, f"`task=diffusion` has no use for `{key}`: it is for models that read or write text", "remove it"
    for key in (key for key, is_asked in _not_made(recipe).items() if is_asked):
        yield key, f"`task=diffusion` is not made for this value of `{key}`", "remove it"
    adapter = recipe.adapter
    if isinstance(adapter, QLora) or not isinstance(adapter, Lora | Full):
        what = f"`task=diffusion` trains LoRA or everything, and {adapter.label} is only known to us for others"
        yield "adapter", what, "use `adapter=lora`, or `adapter=full`"
    elif isinstance(adapter, Lora):
        for key in (key for key, is_asked in _not_loaded(adapter).items() if is_asked):
            yield f"adapter.{key}", f"`task=diffusion` has no use for `adapter.{key}`: diffusers' pipelines do not load it", "remove it"


def _of_texts(recipe: Recipe) -> dict[str, bool]:
    data, trainer, model = recipe.data, recipe.trainer, recipe.model
    return {
        "data.system": data.system is not None,
        "data.streaming": data.streaming,
        "data.overlong": data.overlong in (Overlong.split, Overlong.drop),
        "eval.metrics": recipe.eval.metrics != default_of(Eval.__dataclass_fields__["metrics"]),
        "model.chat_template": model.chat_template is not None,
        "model.add_tokens": bool(model.add_tokens),
        "trainer.padding_free": trainer.padding_free is Choice.always,
        "trainer.torch_compile": trainer.torch_compile,
        "trainer.label_smoothing_factor": trainer.label_smoothing_factor > 0,
        "trainer.neftune_noise_alpha": trainer.neftune_noise_alpha is not None,
    }


def _not_made(recipe: Recipe) -> dict[str, bool]:
    trainer, model = recipe.trainer, recipe.model
    return {
        "trainer.checkpoint_every_n_layers": trainer.checkpoint_every_n_layers > 1,
        "trainer.activation_offloading": trainer.activation_offloading,
        "trainer.optim": trainer.optim in PROJECTED,
        "trainer.precision": trainer.precision is Precision.fp8,
        "model.run": model.run is not None,
        "model.trust_remote_code": model.trust_remote_code,
        "model.attn_implementation": model.attn_implementation is not None,
        "hardware": isinstance(recipe.hardware, Fsdp | DeepSpeed),
        "debug": isinstance(recipe.debug, Overfit),  # noise is by chance in each step: no batch is learned by heart
    }


def _not_loaded(adapter: Lora) -> dict[str, bool]:
    return {
        "bias": adapter.bias is not Bias.none,
        "use_dora": adapter.use_dora,
        "modules_to_save": bool(adapter.modules_to_save),
        "layers_to_transform": adapter.layers_to_transform is not None,
        "init_lora_weights": adapter.init_lora_weights not in (Init.default, Init.gaussian),
        "continue_from": adapter.continue_from is not None,
    }


RULES = (painting,)
