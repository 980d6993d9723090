"""The result of a run as a model's folder, for runs that start from it: `merged(model, progress=print)`.

A fully tuned model is its run's folder. An adapter is merged once into its base, in fp32, and kept in the user's cache as
`models/run-<name>-<12 digits of its content>/`, which appears by one rename.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer

from tuner.context import suited
from tuner.errors import TuneError
from tuner.files import cache_dir, hashes
from tuner.model.adapt import attach
from tuner.model.endings import ending_of
from tuner.model.load import DTYPES, load_base
from tuner.plan import Plan, read_plan
from tuner.runs import read_json
from tuner.schema.adapter import Full
from tuner.schema.model import Model

WEIGHTS = "adapter_model.safetensors"
TOKENIZER = (
    "token",
    "special_tokens",
    "added_tokens",
    "vocab",
    "merges",
    "chat_template",
    "generation_config",
    "processor",
    "preprocessor",
)
POOLING = "1_Pooling"


def merged(model: Model, *, progress: Callable[[str], None]) -> Path:
    """The folder of the model that `model.run` made. Raises TuneError (code 2) when it is gone, or is an adapter that cannot be merged."""
    run = Path(model.run or "")
    if not (run / "plan.json").is_file():
        fix = "bring its folder back, or run its recipe again and then this one"
        raise TuneError(f"the run that this one starts from is gone: {run}", "model.run", fix)
    plan = read_plan(run / "plan.json")
    recipe = plan.load_recipe()
    if isinstance(recipe.adapter, Full):
        return run
    files = [str(run / WEIGHTS), str(run / "adapter_config.json")]
    base_key = plan.stage("train").key  # which names the base too
    name = hashlib.sha256("".join([base_key, *hashes(files)]).encode()).hexdigest()[:12]
    target = cache_dir() / "models" / f"run-{plan.name}-{name}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            try:
                _merge(run, plan, partial, progress=progress)
                partial.rename(target)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return target


def _merge(run: Path, plan: Plan, folder: Path, *, progress: Callable[[str], None]) -> None:
    recipe = suited(plan.load_recipe(), torch.device("cpu"))
    progress(f"merging the adapter of {plan.name} into its base (once)")
    names = read_json(run / "data.json").get("labels", []) if (run / "data.json").is_file() else []
    ending = ending_of(recipe.task, names, None)
    base = load_base(recipe.model, torch.device("cpu"), progress=progress, dtype=torch.float32, ending=ending)
    adapted: PeftModel = attach(base, run)
    if adapted.active_peft_config.is_prompt_learning:
        what = f"{recipe.adapter.label} puts vectors before the text, and cannot be merged into a model"
        raise TuneError(what, "model.run", f"go on with the same adapter: `adapter.continue_from=run:{plan.name}`")
    shared: Any = base.get_input_embeddings()
    for module, layer in adapted.get_base_model().named_modules():
        if isinstance(layer, BaseTunerLayer) and layer is not shared and getattr(layer.get_base_layer(), "weight", None) is shared.weight:
            what = f"the adapter changes `{module}`, which is the embedding as well: merged, both would change"
            raise TuneError(what, "model.run", f"go on with the same adapter: `adapter.continue_from=run:{plan.name}`")
    whole = adapted.merge_and_unload(safe_merge=True)
    whole.to(DTYPES[recipe.model.dtype]).save_pretrained(str(folder))
    for file in run.iterdir():  # tokenizer, chat template, generation settings
        if file.suffix in (".json", ".jinja", ".txt", ".model") and (file.name.startswith(TOKENIZER) or file.suffix != ".json"):
            shutil.copy2(file, folder)
    if (run / POOLING).is_dir():
        shutil.copytree(run / POOLING, folder / POOLING)
