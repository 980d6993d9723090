"""Going on with a saved adapter: `carry_on(model, folder)` gives a fresh adapter the weights in a folder that PEFT wrote."""

from __future__ import annotations

from pathlib import Path

from peft import PeftConfig, PeftModel, get_peft_model_state_dict, load_peft_weights, set_peft_model_state_dict

from tuner.errors import TuneError

# What a saved adapter and the recipe that goes on with it must have alike, where their kind has it.
SHAPING = (
    *("r", "lora_alpha", "use_rslora", "use_dora", "bias", "target_modules", "modules_to_save", "feedforward_modules", "rank_pattern"),
    *("alpha_pattern", "layers_to_transform", "projection_prng_key", "oft_block_size", "boft_block_size", "num_virtual_tokens"),
)


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
            raise TuneError(f"the adapter in {folder} has `{name}` {a}, this recipe {b}", f"adapter.{name}", f"set it to {a}")
    if not weights:
        return
    found = load_peft_weights(str(folder), device="cpu")
    missing = set(get_peft_model_state_dict(model)) ^ set(found)
    if missing:
        raise TuneError(f"the adapter in {folder} is for other modules: {min(missing)}", where, "it must be of the same base model")
    set_peft_model_state_dict(model, found)
