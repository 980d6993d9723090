"""The parts of diffusers' pipelines: `parts_of(model, progress=print)` -> Parts, which load what is trained by itself, and the rest frozen.

A pipeline is a folder a part, listed in model_index.json. The part that is trained takes noise away: a UNet, or a transformer.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import get_peft_model_state_dict
from torch import nn

from tuner.errors import ENVIRONMENT, TuneError
from tuner.model.adapt import wrap
from tuner.model.load import Progress, pretrained
from tuner.registry import load
from tuner.schema.adapter import Adapter, Full, Lora
from tuner.schema.model import Model

KNOWN = {
    "StableDiffusionPipeline": "unet",
    "StableDiffusionXLPipeline": "unet",
    "StableDiffusion3Pipeline": "transformer",
    "FluxPipeline": "transformer",
}
PACKED = "FluxPipeline"  # whose transformer takes four numbers of the latents as one
UNSAID = 128  # the side of the latents where a configuration does not say it: Flux's
LORA_FILE = "pytorch_lora_weights.safetensors"
PEFT_S = "base_model.model."  # what PEFT puts before each name
NEEDS = "model_index.json, and safetensors in a folder a part"


def diffusers() -> Any:
    """The package. Raises TuneError (code 4) where it is missing."""
    try:
        found: Any = load("diffusers")
    except ImportError as error:
        raise TuneError("images are painted with diffusers", "task", "pip install 'tuner[diffusion]'", code=ENVIRONMENT) from error
    warnings.filterwarnings("ignore", message=".*local_dir_use_symlinks")  # what diffusers 0.42 hands to huggingface_hub 2
    found.utils.logging.set_verbosity_error()
    found.utils.logging.disable_progress_bar()
    return found


class _Safe:
    """A class of diffusers that reads safetensors alone: no pickles, and no code of a repository's."""

    def __init__(self, cls: Any) -> None:
        self.cls = cls

    def from_pretrained(self, place: str, *, trust_remote_code: bool, **options: Any) -> Any:
        return self.cls.from_pretrained(place, use_safetensors=True, **options)


class _Plain(_Safe):
    """One without weights."""

    def from_pretrained(self, place: str, *, trust_remote_code: bool, **options: Any) -> Any:
        return self.cls.from_pretrained(place, **options)


class _Config(_Safe):
    """The configuration of such a class."""

    def from_pretrained(self, place: str, *, trust_remote_code: bool, **options: Any) -> Any:
        return self.cls.load_config(place, **options)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A pipeline that is not loaded: `index` is its model_index.json, `trained` the folder of what takes noise away."""

    model: Model
    progress: Progress
    index: dict[str, Any]
    trained: str
    shape: dict[str, Any]
    factor: int
    """Pixels, along a side, of one number of the latents."""

    @property
    def pipeline(self) -> Any:
        """The pipeline's class."""
        return getattr(diffusers(), self.index["_class_name"])

    @property
    def flow(self) -> bool:
        """Whether it learns a flow from noise to image; else what noise was put on."""
        return str(self.index["scheduler"][1]).startswith("FlowMatch")

    @property
    def resolution(self) -> int:
        """Pixels of each side of the images that it was made for."""
        return int(self.shape.get("sample_size") or UNSAID) * self.factor

    @property
    def packed(self) -> bool:
        """Whether four numbers of the latents are given as one."""
        return str(self.index["_class_name"]) == PACKED

    @property
    def multiple(self) -> int:
        """What the sides of an image are multiples of, in pixels."""
        return max(8, self.factor * (2 if self.packed else int(self.shape.get("patch_size") or 1)))

    @property
    def cls(self) -> Any:
        """The class of what is trained."""
        return getattr(diffusers(), self.index[self.trained][1])

    def part(self, name: str, **options: Any) -> Any:
        """One part of diffusers' own, by its folder. Raises TuneError (code 4) when it cannot be had."""
        return pretrained(
            _Safe(getattr(diffusers(), self.index[name][1])), self.model, progress=self.progress, needs=NEEDS, subfolder=name, **options
        )

    def scheduler(self) -> Any:
        """How noise is put on while training."""
        kind = "FlowMatchEulerDiscreteScheduler" if self.flow else "DDPMScheduler"
        return pretrained(_Plain(getattr(diffusers(), kind)), self.model, progress=self.progress, needs=NEEDS, subfolder="scheduler")

    def empty(self) -> nn.Module:
        """What is trained, without weights."""
        with torch.device("meta"):
            found: nn.Module = self.cls.from_config(self.shape)
        return found

    def base(self, device: torch.device, dtype: torch.dtype, *, tuned: Path | None = None) -> nn.Module:
        """What is trained, as it is before, or as all of it was saved in a folder `tuned`."""
        if tuned is None:
            found: nn.Module = self.part(self.trained, dtype=dtype)
        else:
            found = self.cls.from_pretrained(str(tuned), subfolder=self.trained, use_safetensors=True, dtype=dtype)
        return found.to(device).eval()

    def frozen(self, device: torch.device, dtype: torch.dtype) -> Any:
        """The pipeline with all but what is trained, which has no weights in it: to encode, and to paint with another."""
        given = {name: None for name, value in self.index.items() if isinstance(value, list) and value[0] is None}
        if "safety_checker" in self.index:
            given |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": cast(Any, False)}
        options: dict[str, Any] = given | {self.trained: self.empty(), "dtype": dtype}
        found = pretrained(_Safe(self.pipeline), self.model, progress=self.progress, needs=NEEDS, **options)
        for name, part in found.components.items():
            if isinstance(part, nn.Module) and name != self.trained:
                part.requires_grad_(False).eval().to(device)
        found.set_progress_bar_config(disable=True)
        return found


def parts_of(model: Model, *, progress: Progress) -> Parts:
    """The pipeline of a recipe's model. Raises TuneError (code 4) when it cannot be had, (code 2) for a kind that is not known here."""
    known = diffusers()
    index = pretrained(_Config(known.DiffusionPipeline), model, progress=progress, needs=NEEDS)
    name = str(index.get("_class_name"))
    if name not in KNOWN:
        raise TuneError(f"{model.id} is a {name}", "model.id", f"`task: diffusion` trains {', '.join(KNOWN)}")
    trained = KNOWN[name]
    shapes = [
        pretrained(_Config(getattr(known, index[part][1])), model, progress=progress, needs=NEEDS, subfolder=part)
        for part in (trained, "vae")
    ]
    factor = 2 ** (len(shapes[1]["block_out_channels"]) - 1)
    return Parts(model=model, progress=progress, index=index, trained=trained, shape=dict(shapes[0]), factor=factor)


def wrapped(base: Any, adapter: Adapter) -> nn.Module:
    """What is trained, with just the right parameters requiring gradients. Raises TuneError (code 2) when no module fits the targets."""
    if isinstance(adapter, Lora) and adapter.target_modules == "all-linear":  # which PEFT knows of Transformers' models alone
        maps = [name for name, module in base.named_modules() if isinstance(module, nn.Linear)]
        adapter = dataclasses.replace(adapter, target_modules=maps)
    found: nn.Module = wrap(base, adapter, head="diffusion")
    return found


def attached(base: Any, parts: Parts, folder: Path) -> nn.Module:
    """A saved LoRA in a fresh base, as `pipeline.load_lora_weights(folder)` puts it there."""
    base.load_lora_adapter(str(folder), prefix=parts.trained, weight_name=LORA_FILE, use_safetensors=True)
    found: nn.Module = base.eval()
    return found


def save(model: Any, adapter: Adapter, parts: Parts, folder: Path) -> None:
    """Write the result as diffusers does: a LoRA for `pipeline.load_lora_weights`, or the whole part in a folder of its name."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(adapter, Full):
        model.save_pretrained(str(folder / parts.trained))
        return
    weights = {name.removeprefix(PEFT_S): value for name, value in get_peft_model_state_dict(model).items()}
    config = model.peft_config["default"].to_dict() | {"base_model_name_or_path": None, "inference_mode": True}
    config = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}  # the same file each time
    layers = {f"{parts.trained}_lora_layers": weights, f"{parts.trained}_lora_adapter_metadata": config}
    parts.pipeline.save_lora_weights(str(folder), **layers)


@contextmanager
def painting_with(pipeline: Any, parts: Parts, model: nn.Module) -> Iterator[Any]:
    """The frozen pipeline with a model in it."""
    before = getattr(pipeline, parts.trained)
    setattr(pipeline, parts.trained, model)
    try:
        yield pipeline
    finally:
        setattr(pipeline, parts.trained, before)
