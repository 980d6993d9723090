"""Several LoRA adapters of one base into one, by PEFT: `mix(job)` writes the folder and says how far it is from each of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel
from safetensors import SafetensorError

from tuner.errors import ENVIRONMENT, GATE, TuneError
from tuner.model.intended import factors, has, layers_of, measure
from tuner.model.load import load_base
from tuner.model.merge import TOKENIZER
from tuner.model.mergeable import as_base, configs_of, is_whole, tensors_of
from tuner.plan import read_plan
from tuner.runs import write_json
from tuner.schema.model import Dtype, Model

RESULT = "merged"
WHOLE_UPDATES = ("cat", "svd")  # the others work on the factors
PLACES = ("exclude_modules", "layers_to_transform", "layers_pattern")
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

    @property
    def adapters(self) -> list[str]:
        """What PEFT calls them meanwhile."""
        return [f"a{index}" for index in range(len(self.folders))]


def mix(job: Job, *, progress: Callable[[str], None]) -> dict[str, Any]:
    """Merge, save, load again onto a fresh base and compare. Raises TuneError: 2 for what does not fit, 3 when what was loaded differs."""
    configs = configs_of(job.folders, job.names)
    partial = job.target.with_name(f".{job.target.name}.partial")
    try:
        with _writing(job.target):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        model = _load(job, _base(job.folders[0], configs[0], progress))
        _merge(job, model)
        with _writing(job.target):
            _save(job, model, partial)
        fresh: Any = PeftModel.from_pretrained(_base(job.folders[0], configs[0], progress), str(partial))
        distances = measure(model, job.adapters, job.weights, job.method, RESULT, fresh, str(job.target))
        facts = _facts(job, model, distances) | {"reloaded": _difference(job, model, fresh)}
        with _writing(job.target):
            write_json(partial / "merge.json", facts)
            partial.rename(job.target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return facts


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """Tell what the disk refuses."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        what = f"cannot write the result: {getattr(error, 'strerror', None) or error}"
        raise TuneError(what, str(target), "choose another folder", code=ENVIRONMENT) from error


def _base(folder: Path, config: LoraConfig, progress: Callable[[str], None]) -> Any:
    """The base in fp32: of the run's recipe, or as the adapter names it."""
    model = Model(id=str(config.base_model_name_or_path))
    if (folder / "plan.json").is_file():
        model = read_plan(folder / "plan.json").load_recipe().model
    model.dtype = Dtype.float32
    return load_base(model, torch.device("cpu"), progress=progress)


def _load(job: Job, base: Any) -> PeftModel:
    """All adapters on one base, each whole."""
    model: Any = None
    weights = base.state_dict()
    for adapter, folder, name in zip(job.adapters, job.folders, job.names, strict=True):
        tensors = tensors_of(folder, name, weights)
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, str(folder), adapter_name=adapter)
            else:
                model.load_adapter(str(folder), adapter_name=adapter)
        except (RuntimeError, ValueError) as error:
            raise TuneError(f"{name} does not fit its base: {str(error).splitlines()[-1].strip()}", name, "leave it out") from error
        is_whole(model, adapter, tensors, name)
    return cast(PeftModel, model)


def _merge(job: Job, model: Any) -> None:
    """Add the result to the model. Its matrices hold all scales: its own is 1."""
    _places(job, model)
    if job.method not in WHOLE_UPDATES:
        for path, layer in layers_of(model, *job.adapters):
            ranks = [layer.r[adapter] for adapter in job.adapters if has(layer, adapter)]
            if len(set(ranks)) > 1:
                what = f"`{job.method}` needs equal ranks, and at {path} they are {', '.join(map(str, ranks))}"
                raise TuneError(what, f"method={job.method}", "use `method=cat` or `method=svd`, which take any ranks")
    torch.manual_seed(job.seed)  # DARE draws what it leaves out
    options = {} if job.density is None else {"density": job.density}
    try:
        model.add_weighted_adapter(job.adapters, job.weights, RESULT, combination_type=job.method, svd_full_matrices=False, **options)
    except ValueError as error:
        fix = (
            as_base(job.folders[-1], job.names[-1])
            if job.method in WHOLE_UPDATES
            else "use `method=cat` or `method=svd`, which take any ranks"
        )
        what = f"PEFT cannot merge these by `{job.method}`: {str(error).splitlines()[0]}"
        raise TuneError(what, f"method={job.method}", fix) from error
    _plain(model)
    _pad(model)


def _places(job: Job, model: Any) -> None:
    """PEFT takes over from the first adapter where it stands, all but `target_modules`: name each module where they differ in it."""
    configs = [model.peft_config[adapter] for adapter in job.adapters]
    for config in configs:
        config.init_lora_weights = True  # how the matrices started, which asks of their rank what a sum may not have
    places = [(type(config.target_modules), *(getattr(config, key) for key in PLACES)) for config in configs]
    if all(place == places[0] for place in places):
        return
    for adapter, config in zip(job.adapters, configs, strict=True):
        config.target_modules = {path for path, _ in layers_of(model, adapter)}
        for key in PLACES:
            setattr(config, key, None)


def _plain(model: Any) -> None:
    """PEFT takes over rsLoRA's mark, by which the result would be scaled once more."""
    merged = model.peft_config[RESULT]
    merged.use_rslora = False
    for _, layer in layers_of(model, RESULT):
        layer.scaling[RESULT] = merged.lora_alpha / layer.r[RESULT]


def _pad(model: Any) -> None:
    """Zeros where a module has less than the result's rank: another rank by pattern, or fewer singular values."""
    for _, layer in layers_of(model, RESULT):
        a, b = factors(layer, RESULT)
        rank = layer.r[RESULT]
        if a.shape[0] == rank:
            continue
        wide_a, wide_b = a.new_zeros(rank, *a.shape[1:]), b.new_zeros(b.shape[0], rank, *b.shape[2:])
        wide_a[: a.shape[0]], wide_b[:, : b.shape[1]] = a.data, b.data
        a.data, b.data = wide_a, wide_b


def _save(job: Job, model: PeftModel, folder: Path) -> None:
    """Write the folder for plain PEFT."""
    model.save_pretrained(str(folder), selected_adapters=[RESULT], save_embedding_layers=False)
    for file in (folder / RESULT).iterdir():
        file.rename(folder / file.name)
    (folder / RESULT).rmdir()
    (folder / "README.md").unlink(missing_ok=True)
    for file in job.folders[0].iterdir():
        if file.is_file() and (file.name.startswith(TOKENIZER) or file.suffix == ".jinja"):
            shutil.copy2(file, folder)


def _difference(job: Job, model: Any, fresh: Any) -> float:
    """Of the logits, once the result is loaded."""
    model.set_adapter(RESULT)
    ids = torch.arange(1, 33)[None] % model.config.get_text_config().vocab_size
    with torch.inference_mode():
        expected, found = (each.eval()(input_ids=ids).logits.float() for each in (model, fresh))
    difference = float((found - expected).abs().max())
    if not difference <= NEAR * float(expected.abs().max()):
        what = f"the merged adapter is not what was merged: logits differ by {difference:.2g} once it is loaded"
        raise TuneError(what, str(job.target), "nothing is kept; report it with `tune doctor`", code=GATE)
    return difference


def _facts(job: Job, model: Any, distances: list[float]) -> dict[str, Any]:
    """What there is to tell."""
    parents = {}
    for index, (adapter, name) in enumerate(zip(job.adapters, job.names, strict=True)):
        rank = model.peft_config[adapter].r
        parents[name] = {"weight": job.weights[index], "rank": rank, "distance": distances[index]}
    rank = model.peft_config[RESULT].r
    return {"method": job.method, "density": job.density, "seed": job.seed, "rank": rank, "parents": parents}
