"""Which LoRA adapters can be merged: `configs_of(folders, names)` refuses what PEFT would pass over, `is_whole` files that do not fit."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights
from safetensors import SafetensorError
from torch import Tensor

from tuner.errors import TuneError

FILES = ("adapter_model.safetensors", "adapter_model.bin")
OTHER_KIND = "an update of another kind, which is no sum of products"
# What PEFT passes over when it merges, and why it cannot be passed over.
REFUSED = {
    "use_dora": "magnitudes of weights, which are no update that could be added",
    "modules_to_save": "whole modules, which are not merged",
    "trainable_token_indices": "rows of new tokens, which are not merged",
    "bias": "biases of the base, which are not merged",
    "lora_bias": "biases beside the matrices, which are not merged",
    "layer_replication": "blocks of the base that are there several times, which the others have not",
    "target_parameters": "updates of parameters that are no modules, which are not merged",
    "alora_invocation_tokens": "an update that begins with certain tokens, which a sum could not",
    **dict.fromkeys(("use_qalora", "use_bdlora", "kasa_config", "monteclora_config", "arrow_config"), OTHER_KIND),
}
MOVING = ("pissa", "olora", "corda", "loftq", "lora_ga")  # starts that take a part out of the base, in a folder that was not converted


def as_base(folder: Path, name: str) -> str:
    """What to do with an adapter that cannot be merged with others."""
    if not (folder / "plan.json").is_file():
        return "merge it into its base with PEFT's `merge_and_unload`, and take that as a base: `model.id=FOLDER`"
    return f"take its result as a base instead: `model=run:{name.removeprefix('run:')}`"


def configs_of(folders: list[Path], names: list[str]) -> list[LoraConfig]:
    """Raises TuneError (code 2) naming the first adapter that cannot be merged."""
    found: list[LoraConfig] = []
    for folder, name in zip(folders, names, strict=True):
        try:
            config = PeftConfig.from_pretrained(str(folder))
        except (ValueError, OSError, TypeError, KeyError) as error:
            raise TuneError(f"the configuration of {name} cannot be read: {error}", name, "name a folder that PEFT wrote") from error
        if not isinstance(config, LoraConfig):
            raise TuneError(
                f"{name} is {config.peft_type}, and LoRA adapters alone can be merged".replace("PeftType.", ""), name, "leave it out"
            )
        found.append(config)
        _refuse(config, folder, name)
        if config.base_model_name_or_path != found[0].base_model_name_or_path:
            what = f"{name} is for {config.base_model_name_or_path}, {names[0]} for {found[0].base_model_name_or_path}"
            raise TuneError(what, name, "merge adapters of one base")
        if not any((folder / file).is_file() for file in FILES):
            raise TuneError(f"{name} has no weights: there is no {FILES[0]} in {folder}", name, "name a folder that PEFT wrote")
    return found


def _refuse(config: LoraConfig, folder: Path, name: str) -> None:
    for key, why in REFUSED.items():
        if getattr(config, key, None) not in (None, False, [], {}, "none"):
            raise TuneError(f"{name} has `{key}`: {why}", name, as_base(folder, name))
    if str(start := config.init_lora_weights).startswith(MOVING):
        what = f"{name} has `init_lora_weights={start}`: it is for a base that was changed at the start"
        fix = "save it for the unchanged base, as `save_pretrained(…, path_initial_model_for_weight_conversion=…)` does"
        raise TuneError(what, name, fix)


def tensors_of(folder: Path, name: str, base: dict[str, Tensor]) -> set[str]:
    """Names of an adapter's tensors. Raises TuneError (code 2) for a torn file, what is no number, and other weights of the base."""
    try:
        tensors = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        raise TuneError(f"the weights of {name} cannot be read: {error}", name, "train it again, or leave it out") from error
    own = {key for key in tensors if "lora_" in key}
    for key in sorted(tensors):
        if key in own and not bool(tensors[key].isfinite().all()):
            raise TuneError(f"{name} has numbers that are none (NaN or infinite), at {key}", name, "train it again, or leave it out")
        if key not in own and not _same(tensors[key], base.get(key.removeprefix("base_model.model.").replace(".base_layer.", "."))):
            raise TuneError(
                f"{name} has a whole weight that differs from the base, which is not merged: {key}", name, as_base(folder, name)
            )
    return own


def _same(tensor: Tensor, other: Tensor | None) -> bool:
    return other is not None and tensor.shape == other.shape and torch.equal(tensor.float(), other.float())


def is_whole(model: PeftModel, adapter: str, tensors: set[str], name: str) -> None:
    """Raises TuneError (code 2) when an adapter's file has more or less than its configuration: PEFT would begin anew what is missing."""
    expected = {key for key in get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False) if "lora_" in key}
    for key in sorted(expected ^ tensors):
        has = "has no" if key in expected else "has, with no place in its configuration,"
        raise TuneError(f"{name} {has} {key}", name, "train it again, or leave it out")
