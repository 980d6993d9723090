"""What a run folder says of its run, for report, card and push: `read_results(folder).verdict` -> "exact match 0.02 → 0.81 (…)"."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tuner.plan import Plan, read_plan
from tuner.runs import read_json
from tuner.schema.adapter import Lora
from tuner.schema.base import flat
from tuner.schema.recipe import Recipe

LOWER_IS_BETTER = ("loss", "perplexity")
HEADLINES = ("exact_match", "valid_json", "loss")  # the first of these that was measured is the run's result in one line
# What may hold a path of this machine: such values are shown and published by their last part alone.
PATH_KEYS = ("output_dir", "data.path", "data.eval_path", "model.id", "model.chat_template")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measurement, base against tuned. `low` and `high`: 95 % interval of tuned − base, where one was computed.

    `verdict`: `better`, `worse` or `cannot tell` (the interval holds 0); `not tested` where there is no interval.
    """

    key: str
    base: float | None
    tuned: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = "not tested"

    @property
    def name(self) -> str:
        """`field/intent` as "intent", `exact_match` as "exact match"."""
        return {"valid_json": "valid JSON"}.get(self.key) or self.key.removeprefix("field/").replace("_", " ")

    @property
    def is_field(self) -> bool:
        """Whether it is the accuracy of one JSON field."""
        return self.key.startswith("field/")

    @property
    def is_rate(self) -> bool:
        """Whether it lies between 0 and 1."""
        return self.key not in LOWER_IS_BETTER

    @property
    def change(self) -> float | None:
        """Tuned − base."""
        return None if self.base is None or self.tuned is None else self.tuned - self.base

    @property
    def interval(self) -> str:
        """The interval as text: `0.71–0.86`, or `−2.6 to −2.4` where a dash would be read as a sign."""
        if self.low is None or self.high is None:
            return ""
        joint = "–" if self.low >= 0 else " to "
        return f"{figure(self.low)}{joint}{figure(self.high)}"

    @property
    def sentence(self) -> str:
        """`exact match 0.02 → 0.81 (+0.79, 95 % interval 0.71–0.86)`."""
        if self.change is None:
            return f"{self.name} {figure(self.base if self.tuned is None else self.tuned)}"
        tested = f", 95 % interval {self.interval}" if self.interval else ""
        return f"{self.name} {figure(self.base)} → {figure(self.tuned)} ({figure(self.change, signed=True)}{tested})"


def figure(value: float | None, *, signed: bool = False) -> str:
    """A measurement with two decimals, three where two would round it to 0 or 1, one when it is large; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    decimals = 1 if size >= 100 else 3 if size not in (0.0, 1.0) and f"{size:.2f}" in ("0.00", "1.00") else 2
    text = f"{value:+.{decimals}f}" if signed else f"{value:.{decimals}f}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """272 as `4 min 32 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


@dataclass(frozen=True)
class Results:
    """A run folder's plan, and whatever its stages have written so far."""

    folder: Path
    plan: Plan
    recipe: Recipe

    def _part(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, or of the shared folder in which its rows were prepared; empty when there is none."""
        places = (self.folder / name, Path(self.plan.stage("prepare").folder) / name)
        found = next((p for p in places if p.is_file()), None)
        return dict(read_json(found)) if found else {}

    @cached_property
    def data(self) -> dict[str, Any]:
        """data.json."""
        return self._part("data.json")

    @cached_property
    def audit(self) -> dict[str, Any]:
        """audit.json."""
        return self._part("audit.json")

    @cached_property
    def environment(self) -> dict[str, Any]:
        """lock.json."""
        return self._part("lock.json")

    @cached_property
    def measured(self) -> dict[str, Any]:
        """metrics.json."""
        return self._part("metrics.json")

    @property
    def num_measured(self) -> int:
        """Held-out rows that were measured; 0 when nothing was."""
        return int(self.measured.get("rows", 0))

    @cached_property
    def metrics(self) -> list[Metric]:
        """Every measurement: exact match first, single fields after whole answers, loss last; empty when nothing was measured."""
        base, tuned, intervals, verdicts = (self.measured.get(k, {}) for k in ("base", "tuned", "intervals", "verdicts"))
        found = []
        for key in dict.fromkeys([*base, *tuned]):
            low, high = intervals.get(key, (None, None))
            verdict = verdicts.get(key, "not tested")
            found.append(Metric(key=key, base=base.get(key), tuned=tuned.get(key), low=low, high=high, verdict=verdict))
        return sorted(found, key=lambda m: (m.key in LOWER_IS_BETTER, m.is_field, m.key not in HEADLINES[:1]))

    @property
    def headline(self) -> Metric | None:
        """The measurement that stands for the run."""
        return next((m for h in HEADLINES for m in self.metrics if m.key == h), None)

    @property
    def verdict(self) -> str:
        """The run in one sentence; empty when nothing was measured."""
        return self.headline.sentence if self.headline else ""

    @property
    def eval_rows(self) -> Path | None:
        """The file of generated answers, where there is one."""
        if not self.plan.has("evaluate"):
            return None
        path = self.folder / "eval" / self.plan.stage("evaluate").key / "rows.jsonl"
        return path if path.is_file() else None

    @cached_property
    def seconds(self) -> dict[str, float]:
        """How long each finished stage took."""
        found = {}
        for stage in self.plan.stages:
            if stage.done:
                marker = read_json(Path(stage.folder) / "stages" / f"{stage.name}-{stage.key}.json")
                found[stage.name] = float(marker.get("seconds", 0.0))
        return found

    @property
    def base_is_local(self) -> bool:
        """Whether the base model is a folder of this machine, and so has no name elsewhere."""
        return "model.id" in self.plan.files

    @property
    def base_name(self) -> str:
        """The base model without its owner: `SmolLM2-135M-Instruct`."""
        return Path(self.recipe.model.id).name

    @property
    def method(self) -> str:
        """How it was tuned: `LoRA, rank 16` or `full fine-tuning`."""
        adapter = self.recipe.adapter
        if not isinstance(adapter, Lora):
            return "full fine-tuning"
        name = {"lora": "LoRA", "qlora": "QLoRA"}.get(adapter.kind, adapter.kind)
        return f"{'DoRA' if adapter.use_dora else name}, rank {adapter.r}"

    def changed(self) -> list[tuple[str, Any, str]]:
        """(key, value, where it comes from) of every recipe value that is not the schema's default."""
        values = self.public_values()
        return [(k, values[k], public(origin)) for k, origin in self.plan.origins.items() if origin != "default" and k in values]

    def public_values(self) -> dict[str, Any]:
        """The recipe by dotted key, without the folders of this machine."""
        return {k: public(v) if k in PATH_KEYS else v for k, v in flat(self.recipe).items()}


def public(value: Any) -> Any:
    """A path by its last part when it names a place on this machine; anything else as it is."""
    is_path = isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute())
    return Path(value).name if is_path else value


def read_results(folder: Path) -> Results:
    """Read a run folder. Raises TuneError (code 4) when its plan is damaged."""
    plan = read_plan(folder / "plan.json")
    return Results(folder, plan, plan.load_recipe())


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file that we wrote; a last line torn by a killed process is left out."""
    with path.open(encoding="utf-8") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield json.loads(line)
