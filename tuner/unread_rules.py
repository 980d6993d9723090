"""What a task has no use for is said, not passed over: `yield from useless(recipe, "it writes no text", "data.system")`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from tuner.schema.adapter import Init, Lora
from tuner.schema.base import default_of
from tuner.schema.beyond_lora import Virtual
from tuner.schema.data import Backend, Overlong
from tuner.schema.debug import Fast, Overfit
from tuner.schema.eval import Eval
from tuner.schema.hardware import Kernels
from tuner.schema.recipe import Recipe
from tuner.schema.trainer import Choice

Finding = tuple[str, str, str]
ROWS = ("trainer.torch_compile", "data.streaming", "hardware.devices_per_row", "data.overlong")  # how rows are laid for models that write
CHAT = ("data.system", "model.chat_template")
WRITE = ("sft", "pretrain", "distil", "dpo", "simpo", "cpo", "orpo", "kto", "grpo", "rloo", "online_dpo")  # language models
ANSWER = (
    "sft",
    "distil",
    "vlm",
    "seq2seq",
    "translate",
    "summarize",
    "grpo",
    "rloo",
    "online_dpo",
)  # measured by what they write
# Keys that only some tasks read, and for what.
READ_BY = {
    "eval.lm_eval": (WRITE, "it asks a language model"),
    "eval.general": (WRITE, "it measures the loss of texts that a language model writes"),
    "data.tokenizer": (("sft", "distil"), "it turns conversations into tokens"),
    "hardware.fused_kernels": (WRITE, "they are of language models that learn to write"),
    "eval.max_new_tokens": (ANSWER, "it limits no answer of this task"),
    "eval.temperature": (("sft", "distil"), "its answers are greedy"),
    "eval.judge": (ANSWER, "no answer is written that could be judged"),
}


def _asked(recipe: Recipe) -> dict[str, bool]:
    """What some tasks have no use for, and whether the recipe asks for it."""
    adapter, trainer = recipe.adapter, recipe.trainer
    return {
        "trainer.torch_compile": trainer.torch_compile,
        "trainer.padding_free": trainer.padding_free is Choice.always,
        "trainer.label_smoothing_factor": trainer.label_smoothing_factor > 0,
        "data.streaming": recipe.data.streaming,
        "hardware.devices_per_row": recipe.hardware.devices_per_row > 1,
        "data.overlong": recipe.data.overlong is Overlong.split,
        "data.system": recipe.data.system is not None,
        "model.chat_template": recipe.model.chat_template is not None,
        "model.add_tokens": bool(recipe.model.add_tokens),
        "adapter.init_lora_weights": isinstance(adapter, Lora) and adapter.init_lora_weights not in (Init.default, Init.gaussian),
        "adapter": isinstance(adapter, Virtual),
        "trainer.eval_steps": recipe.trainer.eval_steps > 0,
        "eval.temperature": recipe.eval.temperature > 0,
        "eval.judge": recipe.eval.judge is not None,
        "eval.lm_eval": recipe.eval.lm_eval is not None,
        "eval.general": recipe.eval.general is not None,
        "eval.generate": not recipe.eval.generate,
        "eval.max_new_tokens": recipe.eval.max_new_tokens != default_of(Eval.__dataclass_fields__["max_new_tokens"]),
        "data.tokenizer": recipe.data.tokenizer is Backend.fast,
        "hardware.fused_kernels": recipe.hardware.fused_kernels is Kernels.always,
        "debug": bool(recipe.debug.impl) or isinstance(recipe.debug, Overfit),
        "eval.metrics": recipe.eval.metrics != default_of(Eval.__dataclass_fields__["metrics"]),
    }


def useless(recipe: Recipe, why: str, *keys: str, fixes: Mapping[str, str] = MappingProxyType({})) -> Iterator[Finding]:
    """Those of some keys that the recipe asks for, though its task has no use for them; `fixes`: what to do about one but remove it."""
    asked = _asked(recipe)
    for key in keys:
        if asked[key]:
            yield key, f"`task={recipe.task.kind}` has no use for `{key}`: {why}", fixes.get(key, "remove it")


def read_by_others(recipe: Recipe) -> Iterator[Finding]:
    """What this task passes over, though others read it: said."""
    for key, (tasks, why) in READ_BY.items():
        if recipe.task.kind not in tasks and not (key == "eval.max_new_tokens" and isinstance(recipe.debug, Fast)):  # which sets it for all
            yield from useless(recipe, why, key)
