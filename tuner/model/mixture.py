"""Several LoRA adapters of one base into one, by PEFT: `mix(job)` writes the folder and says how far it is from each of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftConfig, PeftModel, PeftType
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tuner.errors import ENVIRONMENT, GATE, TuneError
from tuner.model.load import load_base
from tuner.model.merge import TOKENIZER
from tuner.plan import read_plan
from tuner.runs import write_json
from tuner.schema.model import Dtype, Model

RESULT = "merged"
NEAR_SUM = 1e-3  # of the largest part's size
# What PEFT passes over when it merges, and why it cannot be passed over.
REFUSED = {
    "use_dora": "magnitudes of weights, which are no update that could be added",
    "modules_to_save": "whole modules, which are not merged",
    "trainable_token_indices": "rows of new tokens, which are not merged",
    "bias": "biases of the base, which are not merged",
}
NEAR = 1e-4  # of the largest logit, in fp32


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be merged, and how. `density`: the share of numbers that are kept of each update."""

    folders: list[Path]
    names: list[str]
    weights: list[float]
    method: str
    density: float | None
    seed: int
    target: Path


def mix(job: Job, *, progress: Callable[[str], None]) -> dict[str, Any]:
    """Merge, save, load again onto a fresh base and compare. Raises TuneError: 2 for what does not fit, 3 when what was loaded differs."""
    configs = [PeftConfig.from_pretrained(str(folder)) for folder in job.folders]
    _alike(job, configs)
    names = [f"a{index}" for index in range(len(job.folders))]
    model = PeftModel.from_pretrained(_base(job.folders[0], configs[0], progress), str(job.folders[0]), adapter_name=names[0])
    for name, folder in list(zip(names, job.folders, strict=True))[1:]:
        model.load_adapter(str(folder), adapter_name=name)
    torch.manual_seed(job.seed)  # DARE draws what it leaves out
    options = {} if job.density is None else {"density": job.density}
    try:
        model.add_weighted_adapter(names, job.weights, RESULT, combination_type=job.method, **options)
    except ValueError as error:
        fix = "leave it out" if job.method in ("cat", "svd") else "use `method=cat` or `method=svd`, which take any ranks"
        raise TuneError(f"PEFT cannot merge these by `{job.method}`: {str(error).splitlines()[0]}", "method", fix) from error
    _plain(model)
    updates = {name: _updates(model, name) for name in (*names, RESULT)}
    _is_meant(job, updates)
    model.set_adapter(RESULT)
    ids = torch.arange(1, 33)[None] % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        expected = model.eval()(input_ids=ids).logits.float()
    partial = job.target.with_name(f".{job.target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        facts = _save(job, model, partial, updates)
        fresh = PeftModel.from_pretrained(_base(job.folders[0], configs[0], progress), str(partial)).eval()
        with torch.inference_mode():
            difference = float((fresh(input_ids=ids).logits.float() - expected).abs().max())
        if difference > NEAR * float(expected.abs().max()):
            what = f"the merged adapter is not what was merged: logits differ by {difference:.2g} once it is loaded"
            raise TuneError(what, str(job.target), "nothing is kept; report it with `tune doctor`", code=GATE)
        facts["reloaded"] = difference
        write_json(partial / "merge.json", facts)
        partial.rename(job.target)
    except OSError as error:
        raise TuneError(f"cannot write the result: {error.strerror}", str(job.target), "choose another folder", code=ENVIRONMENT) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


def _alike(job: Job, configs: list[PeftConfig]) -> None:
    first = configs[0]
    for name, config in zip(job.names, configs, strict=True):
        if (kind := cast(PeftType, config.peft_type)) is not PeftType.LORA:
            raise TuneError(f"{name} is {kind.value}, and LoRA adapters alone can be merged", name, "leave it out")
        if config.base_model_name_or_path != first.base_model_name_or_path:
            what = f"{name} is for {config.base_model_name_or_path}, {job.names[0]} for {first.base_model_name_or_path}"
            raise TuneError(what, name, "merge adapters of one base")
        for key, why in REFUSED.items():
            if getattr(config, key, None) not in (None, False, [], {}, "none"):
                fix = f"take its result as a base instead: `model=run:{name}`"
                raise TuneError(f"{name} has `{key}`: {why}", name, fix)
        for key in ("layers_to_transform", "exclude_modules"):
            if getattr(config, key, None) != getattr(first, key, None):
                what = f"{name} and {job.names[0]} have other `{key}`, and PEFT would leave out what the first has not"
                raise TuneError(what, name, "merge adapters of the same modules")


def _plain(model: PeftModel) -> None:
    """The merged matrices hold all scales but `alpha / r`; PEFT takes over rsLoRA's mark, by which they would be scaled once more."""
    merged: Any = model.peft_config[RESULT]
    merged.use_rslora = False
    for layer in model.modules():
        if isinstance(layer, LoraLayer) and RESULT in layer.lora_A:
            layer.scaling[RESULT] = merged.lora_alpha / layer.r[RESULT]


def _is_meant(job: Job, updates: dict[str, dict[str, Tensor]]) -> None:
    """Raises TuneError (code 3) where a result is no number, or `cat` is not the weighted sum, module by module."""
    result = updates[RESULT]
    if not all(bool(update.isfinite().all()) for update in result.values()):
        raise TuneError("the merged adapter is not a number", str(job.target), "look at the adapters and their weights", code=GATE)
    if job.method != "cat":
        return
    for path in {path for index in range(len(job.names)) for path in updates[f"a{index}"]}:
        parts = [weight * updates[f"a{i}"][path] for i, weight in enumerate(job.weights) if path in updates[f"a{i}"]]
        meant = torch.stack(parts).sum(0)
        size = max(float(part.norm()) for part in parts)
        away = float((result[path] - meant).norm()) if path in result else size
        if away > NEAR_SUM * size:
            what = f"the merged adapter is not the weighted sum: at {path} it is {away / size:.0%} away"
            raise TuneError(what, str(job.target), "nothing is kept; report it with `tune doctor`", code=GATE)


def _base(folder: Path, config: PeftConfig, progress: Callable[[str], None]) -> Any:
    """The base in fp32: of the run's recipe, or as the adapter names it."""
    model = Model(id=str(config.base_model_name_or_path))
    if (folder / "plan.json").is_file():
        model = read_plan(folder / "plan.json").load_recipe().model
    model.dtype = Dtype.float32
    return load_base(model, torch.device("cpu"), progress=progress)


def _updates(model: PeftModel, name: str) -> dict[str, Tensor]:
    """What an adapter adds to each weight. A module that it leaves alone is not there."""
    layers = {path: module for path, module in model.named_modules() if isinstance(module, LoraLayer) and name in module.lora_A}
    return {path: cast(Any, layer).get_delta_weight(name).detach() for path, layer in layers.items()}


def _save(job: Job, model: PeftModel, folder: Path, updates: dict[str, dict[str, Tensor]]) -> dict[str, Any]:
    """Write the folder for plain PEFT; returns what there is to tell."""
    model.save_pretrained(str(folder), selected_adapters=[RESULT], save_embedding_layers=False)
    for file in (folder / RESULT).iterdir():
        file.rename(folder / file.name)
    (folder / RESULT).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    for file in job.folders[0].iterdir():
        if file.is_file() and (file.name.startswith(TOKENIZER) or file.suffix == ".jinja"):
            shutil.copy2(file, folder)
    result, parents = updates[RESULT], {}
    for index, name in enumerate(job.names):
        own: Any = model.peft_config[f"a{index}"]
        parent = updates[f"a{index}"]
        away = sum(float((result[path] - parent[path]).square().sum()) for path in result if path in parent)
        size = sum(float(update.square().sum()) for update in parent.values())
        parents[name] = {"weight": job.weights[index], "rank": own.r, "distance": (away / size) ** 0.5 if size else 0.0}
    merged: Any = model.peft_config[RESULT]
    return {"method": job.method, "density": job.density, "seed": job.seed, "rank": merged.r, "parents": parents}
