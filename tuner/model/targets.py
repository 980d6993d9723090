"""Whether the modules that an adapter names are in the model, told by what is there; PEFT passes over most that are not."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from tuner.errors import TuneError
from tuner.schema.adapter import Adapter
from tuner.schema.beyond_lora import LayerNorm


def all_there(base: PreTrainedModel, adapter: Adapter, tokens: Sequence[int]) -> None:
    """What PEFT passes over, or breaks at. Raises TuneError (code 2) for a module or a block that is not there, and one named twice."""
    names = [name for name, _ in base.named_modules()]
    for key in ("target_modules", "exclude_modules"):
        wanted = getattr(adapter, key, None)
        for module in wanted if isinstance(wanted, list) else ():
            if not any(name == module or name.endswith(f".{module}") for name in names):
                fix = f"linear modules of this model: {', '.join(sorted(linear_maps(base)))}"
                raise TuneError(f"the model has no module `{module}`", f"adapter.{key}", fix)
    text = base.config.get_text_config() if isinstance(base, PreTrainedModel) else None  # a diffusion model has blocks of other kinds
    blocks = getattr(text, "num_hidden_layers", None)
    chosen = getattr(adapter, "layers_to_transform", None) or []
    if blocks is not None and (beyond := [n for n in chosen if not 0 <= n < blocks]):
        fix = f"blocks are counted from 0 to {blocks - 1}"
        raise TuneError(f"the model has no block {beyond[0]}", "adapter.layers_to_transform", fix)
    if tokens:
        both = (base.get_input_embeddings(), base.get_output_embeddings())
        ends = {name.rpartition(".")[2] for name, module in base.named_modules() if any(module is end for end in both)}
        for key in ("target_modules", "modules_to_save"):
            wanted = getattr(adapter, key, None)
            for module in wanted if isinstance(wanted, list) else ():
                if module in ends:
                    what = f"`{module}` holds the rows of new tokens, which are trained by themselves"
                    raise TuneError(what, f"adapter.{key}", f"leave `{module}` out, or train all with `adapter=full`")


def rows_of(base: PreTrainedModel, tokens: list[int]) -> dict[str, list[int]]:
    """PEFT's name for the rows of some tokens in embedding and head; a head that is the embedding is found by PEFT."""
    ends = [base.get_input_embeddings()] + ([] if base.config.get_text_config().tie_word_embeddings else [base.get_output_embeddings()])
    return {name.rpartition(".")[2]: tokens for name, module in base.named_modules() if any(module is end for end in ends)}


def modules_there(base: PreTrainedModel, wanted: list[str], key: str) -> None:
    """PEFT passes over modules that it does not find."""
    there = {name.rpartition(".")[2] for name, _ in base.named_modules()} - {""}
    for name in wanted:
        if name.rpartition(".")[2] not in there:
            fix = f"modules of this model: {', '.join(sorted(n for n in there if not n.isdigit()))}"
            raise TuneError(f"the model has no module `{name}`", key, fix)


def does_not_fit(linear: list[str], base: PreTrainedModel, adapter: Adapter, error: Exception) -> TuneError:
    """What PEFT says, with the key that it is about and what there is."""
    said = str(error).splitlines()[0]
    keys = [spec.name for spec in dataclasses.fields(adapter) if spec.name != "target_modules"]
    words = set(re.findall(r"\w+", said))
    where = f"adapter.{next((key for key in keys if key in words), 'target_modules')}"
    fix = f"linear modules of this model: {', '.join(linear)}, or `all-linear`"
    if getattr(adapter, "target_modules", None) in linear:
        fix = f"a text is a regular expression for the whole path of a module; a name stands in a list: `[{adapter.target_modules}]`"  # type: ignore[attr-defined]
    if isinstance(adapter, LayerNorm):
        fix = f"norms of this model: {', '.join(norms(base))}"
    return TuneError(f"the adapter does not fit the model: {said}", where, fix)


def norms(base: PreTrainedModel) -> list[str]:
    """Names of the norms within the model."""
    return sorted({name.rpartition(".")[2] for name, module in base.named_modules() if "norm" in type(module).__name__.lower()})


def linear_maps(base: PreTrainedModel) -> set[str]:
    """Names of the linear maps within the model."""
    head = (
        base.get_output_embeddings() if isinstance(base, PreTrainedModel) else None
    )  # shared with the input embedding, more often than not
    return {name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, torch.nn.Linear) and module is not head}


def beside_language(base: PreTrainedModel) -> tuple[list[str], list[torch.nn.Parameter]]:
    """Of a model that sees: the modules without others in them, by their whole names, and the parameters, that are not of its language
    model or its head.

    Raises TuneError (code 2) where it does not tell which part that is.
    """
    decoder, head = base.get_decoder(), base.get_output_embeddings()
    if decoder is base or decoder is base.base_model:
        what = f"{type(base).__name__} does not tell its language model from what sees"
        raise TuneError(what, "task.train_vision", "train all with `task.train_vision=true`")
    inside = {id(module) for module in (*decoder.modules(), head)}
    spoken = {id(p) for module in (decoder, head) if module is not None for p in module.parameters()}
    names = [name for name, module in base.named_modules() if not any(True for _ in module.children()) and id(module) not in inside]
    return names, [p for p in base.parameters() if id(p) not in spoken]
