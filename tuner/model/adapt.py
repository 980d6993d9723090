"""Adapters through PEFT: `wrap(base, recipe.adapter)` gives what is trained, `attach(base, folder)` what was."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
from peft import LoraModel, PeftModel, PromptTuningInit, get_peft_model
from peft.helpers import disable_input_dtype_casting
from peft.utils import TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING as KNOWN_NORMS
from transformers import BitsAndBytesConfig, PreTrainedModel, TrainingArguments

from tuner.errors import ENVIRONMENT, TuneError
from tuner.model.continued import carry_on, ranks_of
from tuner.model.counts import COUNT, is_4bit
from tuner.model.heads import HEADS, PARTS, UNUSED, linear_parts, new_modules
from tuner.model.kernels import lean_lora
from tuner.model.starts import LOOKS_AT_WEIGHTS, can_start, starting_point
from tuner.model.targets import all_there, beside_language, does_not_fit, linear_maps, modules_there, norms, rows_of
from tuner.registry import load
from tuner.schema.adapter import AdaLora, Adapter, Beside, Full, Init, Lora, LowRank, Modules, QLora, Quant
from tuner.schema.base import plain
from tuner.schema.beyond_lora import BOFT, IA3, LayerNorm, Prompt

# What PEFT says where it leaves out, or changes, what it was given.
IGNORED = (".*pattern keys did not match", "You have passed exclude_modules", "Invalid `oft_block_size`")

OURS = {
    "kind",
    "continue_from",
    "loraplus_lr_ratio",
    "quant",
    "double_quant",
}  # all else is PEFT's, which refuses a field that it does not know


def quantization(adapter: Adapter, dtype: torch.dtype, *, cut: bool = False, headed: bool = False) -> BitsAndBytesConfig | None:
    """How the base is quantised while training; None unless qlora. Raises TuneError (code 4) when bitsandbytes is missing.

    `headed`: the model ends with a head of its own.
    Weights that FSDP is to `cut` lie in memory as numbers of `dtype`: of bytes it can cut none.
    """
    if not isinstance(adapter, QLora):
        return None
    try:
        load("bitsandbytes")
    except ImportError as error:
        raise TuneError("qlora needs bitsandbytes", "adapter", "pip install 'tuner[qlora]'", code=ENVIRONMENT) from error
    if adapter.quant is Quant.int8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(PARTS) if headed else None)
    return BitsAndBytesConfig(
        llm_int8_skip_modules=list(PARTS) if headed else None,  # a new head has nothing to quantise
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.quant.value,
        bnb_4bit_use_double_quant=adapter.double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype if cut else torch.uint8,
    )


def wrap(
    base: PreTrainedModel,
    adapter: Adapter,
    *,
    tokens: Sequence[int] = (),
    start: bool = True,
    head: str = "causal",
    language: bool = False,
) -> PreTrainedModel | PeftModel:
    """The model to train, with just the right parameters requiring gradients: of the embedding rows of new `tokens`, a new `head`;
    of a model that sees, of its `language` model alone.

    Without `start` its matrices begin at nothing, whatever the recipe says: for a model that has no weights (`load_empty`).
    Raises TuneError (code 2) when no module fits the targets.
    """
    if isinstance(adapter, Full):
        chosen = _chosen(base, adapter)
        for name, module in chosen.named_children():
            module.requires_grad_(False) if head == "embedding" and name in UNUSED else None
        for parameter in beside_language(base)[1] if language else ():
            parameter.requires_grad_(False)
        return chosen
    going_on = adapter.continue_from if isinstance(adapter, Beside) else None
    if isinstance(adapter, Modules):
        modules_there(base, adapter.modules_to_save, "adapter.modules_to_save")
    base.requires_grad_(False)
    linear = sorted(linear_maps(base))
    all_there(base, adapter, tokens)
    try:
        config = configuration(adapter, base, start=start and going_on is None, head=head, language=language)
        if going_on is not None and isinstance(adapter, Lora):
            for name, value in ranks_of(Path(going_on)).items():
                setattr(config, name, getattr(config, name) or value)
        if tokens:
            warnings.filterwarnings("ignore", message="Setting `save_embedding_layers` to `True`")  # in checkpoints; results: `starts.save`
            config.trainable_token_indices = rows_of(base, list(tokens))
        with _quiet(), warnings.catch_warnings():
            for ignored in IGNORED:  # PEFT goes on without what the recipe asks for
                warnings.filterwarnings("error", message=ignored)
            model: PeftModel = get_peft_model(base, config)
        if isinstance(adapter, IA3):  # PEFT's own check, now that the targets are chosen; else it comes when saving
            config.__post_init__()
    except (ValueError, re.error, UserWarning, RuntimeWarning) as error:
        raise does_not_fit(linear, base, adapter, error) from error
    for name, parameter in model.named_parameters():
        if COUNT in name:  # PEFT trains it where the base is not fp32
            parameter.requires_grad_(False)
    if isinstance(adapter, Lora) and adapter.init_lora_weights in LOOKS_AT_WEIGHTS and going_on is None:
        can_start(model, adapter)
    if isinstance(adapter, BOFT) and len(next(p for n, p in model.named_parameters() if "boft_R" in n)) != adapter.boft_n_butterfly_factor:
        fix = "PEFT compiles them with CUDA's compiler; with 1 none is needed"
        raise TuneError("more than one butterfly factor needs a CUDA kernel", "adapter.boft_n_butterfly_factor", fix, code=ENVIRONMENT)
    if isinstance(adapter, Prompt):  # what it started from is told by the recipe; PEFT would look for the tokenizer again
        config.prompt_tuning_init, config.prompt_tuning_init_text, config.tokenizer_name_or_path = PromptTuningInit.RANDOM, None, None
    if going_on is not None:
        carry_on(model, Path(going_on), weights=start)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what PEFT warns of where nothing is wrong, or nothing can be done: each with its reason."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Failed to load the CUDA extension")  # BOFT's kernel; the same in PyTorch is there
        warnings.filterwarnings("ignore", message="Unsupported layer type")  # norm tuning of an RMSNorm, which it copies as any module
        warnings.filterwarnings("ignore", message="Setting boft_n_butterfly_factor to 1")  # as it is by default; more is refused
        warnings.filterwarnings("ignore", message="lora with eva initialization used with low_cpu")  # advice, of memory alone
        warnings.filterwarnings("ignore", message="The following rank_pattern keys did not match")  # AdaLoRA's own, by parameter
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")  # of merging, which `merge.py` looks at
        yield


def configuration(adapter: Adapter, base: PreTrainedModel, *, start: bool = True, head: str = "causal", language: bool = False) -> Any:
    """PEFT's configuration with the values of ours: the fields have the same names."""
    cls = getattr(peft, adapter.config)
    values = {name: value for name, value in plain(adapter).items() if name not in OURS}
    if isinstance(adapter, Lora):
        values["init_lora_weights"] = starting_point(adapter) if start else True
        if values["init_lora_weights"] == Init.eva.value:
            values["eva_config"] = peft.EvaConfig()
    if isinstance(adapter, LowRank) and adapter.layers_to_transform is not None and adapter.target_modules == "all-linear":
        values["target_modules"] = sorted(linear_maps(base))  # PEFT takes blocks of named modules alone
    if isinstance(adapter, AdaLora):  # the steps are told by `train/adalora.py`, which knows them
        values |= {"tinit": 0, "tfinal": 0, "total_step": 1, "orth_reg_weight": 0.0}
    if isinstance(adapter, Prompt) and adapter.prompt_tuning_init_text and start:
        values |= {"prompt_tuning_init": PromptTuningInit.TEXT, "tokenizer_name_or_path": base.name_or_path}
    if isinstance(adapter, LayerNorm) and not adapter.target_modules and base.config.model_type not in KNOWN_NORMS:
        values["target_modules"] = norms(base)
    spared = beside_language(base)[0] if language else []
    if head != "causal":
        new = list(getattr(base, "new_modules", None) or new_modules(base)) if HEADS[head].new else []
        values["modules_to_save"] = [*(values.get("modules_to_save") or []), *new]
        if values.get("target_modules") == "all-linear":
            spared += linear_parts(base, new if HEADS[head].new else UNUSED)
    if language and "exclude_modules" not in cls.__dataclass_fields__:
        fix = "use `adapter=lora`, or train what sees as well: `task.train_vision=true`"
        raise TuneError(f"{adapter.label} cannot leave out the part of the model that sees", "adapter", fix)
    if spared and "exclude_modules" in cls.__dataclass_fields__:
        also = values.get("exclude_modules") or []
        pattern = isinstance(also, str)
        values["exclude_modules"] = "|".join([f"(?:{also})", *map(re.escape, spared)]) if pattern else [*also, *spared]
    return cls(task_type=HEADS[head].peft, **{name: value for name, value in values.items() if value not in (None, [], {})})


def _chosen(base: PreTrainedModel, adapter: Full) -> PreTrainedModel:
    """All of the base, or what the patterns leave. Raises TuneError (code 2) for one that finds nothing, and when nothing is left."""
    names = [name for name, _ in base.named_parameters()]
    for key in ("unfreeze", "freeze"):
        for pattern in getattr(adapter, key):
            try:
                found = any(re.search(pattern, name) for name in names)
            except re.error as error:
                raise TuneError(f"no regular expression: {pattern!r} ({error})", f"adapter.{key}", "mend it") from error
            if not found:
                fix = "parameters are named like this: " + ", ".join(dict.fromkeys(re.sub(r"\d+", "0", n) for n in names))
                raise TuneError(f"`{pattern}` is found in no parameter's name", f"adapter.{key}", fix)
    for name, parameter in base.named_parameters():
        wanted = not adapter.unfreeze or any(re.search(pattern, name) for pattern in adapter.unfreeze)
        parameter.requires_grad_(wanted and not any(re.search(pattern, name) for pattern in adapter.freeze))
    if not any(parameter.requires_grad for parameter in base.parameters()):
        raise TuneError("every parameter is frozen", "adapter.freeze", "leave some to train")
    return base


@contextlib.contextmanager
def fast_lora(model: torch.nn.Module, args: TrainingArguments) -> Iterator[None]:
    """LoRA layers while training, up to rounding as PEFT computes them: its cast of each input to fp32 is undone by autocast at once,
    so it is left out; plain layers run as one function each."""
    active = isinstance(model, PeftModel) and isinstance(model.base_model, LoraModel) and (args.bf16 or args.fp16)
    with disable_input_dtype_casting(model, active=active), lean_lora(model):
        yield


def measuring(model: Any) -> Any:
    """The model in eval mode, but for 4-bit layers: in eval bitsandbytes repacks them for the CPU, and then they give no gradients."""
    model.eval()
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and is_4bit(module.weight):
            module.train()
    return model


def attach(base: PreTrainedModel, folder: Path) -> PeftModel:
    """A saved adapter on a fresh base, for measuring and serving."""
    with _quiet():
        return PeftModel.from_pretrained(base, str(folder)).eval()
