"""The rows of a Hub dataset: `hub_rows(Data(id="openai/gsm8k", config="main"), "train[:1000]", key="data.split")` -> Rows."""

from __future__ import annotations

import re

from tuner.data.load import Rows
from tuner.errors import BAD_RECIPE, ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.data import Data

_NAMES = re.compile(r"\[(.*)\]")


def hub_rows(data: Data, split: str, *, key: str = "data.split") -> Rows:
    """Rows of a split, or of a split expression, which stands under `key`. A row's place counts within what was asked for.

    Raises TuneError, code 2 when the set has no such configuration or split, code 4 when the Hub cannot be reached or has no such set.
    """
    datasets = load("datasets")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(data.id, data.config, split=split, revision=data.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _told(error, data, split, key) from error
    rows = Rows()
    name = str(data.id) if split == "train" else f"{data.id} {split}"
    rows.extend(name, None, enumerate(map(dict, found), 1), stop=True, limit=None)
    return rows


def _told(error: Exception, data: Data, split: str, key: str) -> TuneError:
    """The error in one message: what the library says, and what there is instead."""
    said = " ".join(str(error).split())
    names = ", ".join(re.findall(r"[\'\"]([^\'\"]+)[\'\"]", found.group(1))) if (found := _NAMES.search(said)) else ""
    if said.startswith("BuilderConfig") and names:
        return TuneError(f"{data.id} has no configuration `{data.config}`", "data.config", f"it has: {names}", code=BAD_RECIPE)
    if said.startswith("Config name is missing") and names:
        fix = f"set `data.config` to one of: {names.split(' Example')[0]}"
        return TuneError(f"{data.id} has several configurations", "data.config", fix, code=BAD_RECIPE)
    if said.startswith("Unknown split") and names:
        return TuneError(f"{data.id} has no split for `{split}`", key, f"its splits: {names}", code=BAD_RECIPE)
    if said.startswith("Unrecognized instruction"):
        fix = "write it as `train`, `train[:1000]`, `train[10%:20%]` or `train+test`"
        return TuneError(f"not a split expression: `{split}`", key, fix, code=BAD_RECIPE)
    fix = "check the id, the revision, the network (a private set needs HF_TOKEN), or use local rows with `data.path`"
    return TuneError(f"cannot load the dataset {data.id}: {said[:300]}", "data.id", fix, code=ENVIRONMENT)
