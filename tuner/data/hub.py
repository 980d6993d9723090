"""The rows of a Hub dataset: `hub_rows(Data(id="openai/gsm8k", config="main"), "train[:1000]", key="data.split")` -> Rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tuner.data.formats import Found
from tuner.data.load import Rows
from tuner.errors import BAD_RECIPE, ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.data import Data, Format

_NAMES = re.compile(r"\[(.*)\]")


def hub_rows(data: Data, split: str, *, key: str = "data.split") -> Rows:
    """Rows of a split, or of a split expression, which stands under `key`. A row's place counts within what was asked for.

    Raises TuneError, code 2 when the set has no such configuration or split, code 4 when the Hub cannot be reached or has no such set.
    """
    rows = Rows()
    name = str(data.id) if split == "train" else f"{data.id} {split}"
    rows.extend(name, None, enumerate(map(dict, _load(data, split, key)), 1), stop=True, limit=None)
    return rows


@dataclass(frozen=True, kw_only=True)
class HubShard:
    """One of the files of a Hub dataset, read as a stream (see formats/shards.py)."""

    stream: Any
    id: str
    index: int
    count: int
    form: Format | None = None

    @property
    def name(self) -> str:
        """As messages name it."""
        return f"{self.id}, part {self.index + 1} of {self.count}"

    def rows(self, data: Data) -> Iterator[Found]:
        """(number in the part, row). Raises TuneError (code 4) when the connection ends."""
        try:
            part = self.stream.shard(num_shards=self.count, index=self.index) if self.count > 1 else self.stream
            yield from enumerate(map(dict, part), 1)
        except (OSError, ValueError, RuntimeError) as error:
            fix = "run the same command again: it goes on from here"
            raise TuneError(f"cannot read on: {error}", self.name, fix, code=ENVIRONMENT) from error

    def number(self, within: int) -> int:
        """Rows are counted by part."""
        return within


def hub_stream(data: Data, *, key: str = "data.split") -> list[HubShard]:
    """The parts of a split. Raises TuneError as `hub_rows` does."""
    stream = _load(data, data.split, key, streaming=True)
    return [HubShard(stream=stream, id=str(data.id), index=index, count=stream.num_shards) for index in range(stream.num_shards)]


def _load(data: Data, split: str, key: str, **options: Any) -> Any:
    datasets = load("datasets")
    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(data.id, data.config, split=split, revision=data.revision, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise _told(error, data, split, key) from error
    for name, feature in (found.features or {}).items():
        if isinstance(feature, datasets.Audio):  # as it is stored: read with soundfile, when it is heard
            found = found.cast_column(name, datasets.Audio(decode=False))
    return found


def _told(error: Exception, data: Data, split: str, key: str) -> TuneError:
    """The error in one message: what the library says, and what there is instead."""
    said = " ".join(str(error).split())
    section = key.rpartition(".")[0]
    names = ", ".join(re.findall(r"[\'\"]([^\'\"]+)[\'\"]", found.group(1))) if (found := _NAMES.search(said)) else ""
    if said.startswith("BuilderConfig") and names:
        return TuneError(f"{data.id} has no configuration `{data.config}`", f"{section}.config", f"it has: {names}", code=BAD_RECIPE)
    if said.startswith("Config name is missing") and names:
        fix = f"set `{section}.config` to one of: {names.split(' Example')[0]}"
        return TuneError(f"{data.id} has several configurations", f"{section}.config", fix, code=BAD_RECIPE)
    if said.startswith(("Unknown split", "Bad split")) and names:
        return TuneError(f"{data.id} has no split for `{split}`", key, f"its splits: {names}", code=BAD_RECIPE)
    if said.startswith("Unrecognized instruction"):
        fix = "write it as `train`, `train[:1000]`, `train[10%:20%]` or `train+test`"
        return TuneError(f"not a split expression: `{split}`", key, fix, code=BAD_RECIPE)
    fix = "check the id, the revision, the network (a private set needs HF_TOKEN), or use local rows with `data.path`"
    return TuneError(f"cannot load the dataset {data.id}: {said[:300]}", f"{section}.id", fix, code=ENVIRONMENT)
