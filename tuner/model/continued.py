"""Going on with a saved adapter: `carry_on(model, folder)` gives a fresh adapter the weights in a folder that PEFT wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from tuner.errors import TuneError
from tuner.runs import read_json
from tuner.schema.base import plain
from tuner.schema.model import Model

# What a saved adapter and the recipe that goes on with it must have alike, where their kind has it.
SHAPING = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "bias", "target_modules", "modules_to_save", "feedforward_modules", "rank_pattern"),
    *("alpha_pattern", "layers_to_transform", "projection_prng_key", "oft_block_size", "boft_block_size", "num_virtual_tokens"),
)


def ranks_of(folder: Path) -> dict[str, Any]:
    """Ranks and scales by module that a saved adapter found by itself (EVA), for a recipe that says none; empty where it has none."""
    path = folder / "adapter_config.json"
    saved = read_json(path) if path.is_file() else {}
    return {name: saved[name] for name in ("rank_pattern", "alpha_pattern") if saved.get(name)}


def same_base(model: Model, folder: Path) -> None:
    """Raises TuneError (code 2) where an adapter of one of our runs was trained over another base than this recipe's."""
    if not (folder / "plan.json").is_file():
        return
    theirs = read_json(folder / "plan.json")["recipe"]["model"]
    ours = {"id": model.id, "revision": model.revision, "run": model.run}
    for name, value in ours.items():
        if theirs.get(name) != value:
            other, own = json.dumps(theirs.get(name)), json.dumps(value)
            what = f"the adapter in {folder} is for a base with `model.{name}` {other}, and this has {own}"
            fix = "take the same base; `model=run:NAME` alone starts from its result"
            raise TuneError(what, "adapter.continue_from", fix)


def carry_on(model: PeftModel, folder: Path, *, weights: bool = True) -> None:
    """Give an adapter the weights of a saved one. Raises TuneError (code 2) naming the key where the two are not alike."""
    where, ours = "adapter.continue_from", model.active_peft_config
    try:
        saved = PeftConfig.from_pretrained(str(folder))
    except (ValueError, OSError, TypeError) as error:
        raise TuneError(f"no adapter can be read: {error}", where, "name a folder that PEFT wrote") from error
    if saved.peft_type != ours.peft_type:
        raise TuneError(
            f"the adapter in {folder} is {saved.peft_type.value}, not {ours.peft_type.value}", where, "choose the same `adapter`"
        )
    for name in SHAPING:
        a, b = (getattr(config, name, None) or None for config in (saved, ours))
        a, b = (sorted(v) if isinstance(v, set | list) else v for v in (a, b))
        if a != b:
            theirs, own = (json.dumps(plain(v), default=str) for v in (getattr(saved, name, None), getattr(ours, name, None)))
            what = f"the adapter in {folder} has `{name}` {theirs}, this recipe {own}"
            raise TuneError(what, f"adapter.{name}", f"set it to {theirs}")
    if not weights:
        return
    found = load_peft_weights(str(folder), device="cpu")
    missing = set(get_peft_model_state_dict(model, save_embedding_layers=False)) ^ set(found)
    if missing:
        raise TuneError(f"the adapter in {folder} is for other modules: {min(missing)}", where, "it must be of the same base model")
    set_peft_model_state_dict(model, found)
