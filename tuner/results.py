"""What a run folder says of its run, for report, card and push: `read_results(folder).verdict` -> "exact match 0.02 → 0.81 (…)"."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from tuner.gate import Judgement, of_plan
from tuner.measures import HEADLINES, Metric, lower_is_better
from tuner.plan import Plan, read_plan
from tuner.runs import read_json
from tuner.schema.adapter import Lora
from tuner.schema.base import flat
from tuner.schema.recipe import Recipe

OPTION_FILES = "tuner/conf/"
# What may hold a path of this machine: such values are shown and published by their last part alone.
PATH_KEYS = (
    *(
        "output_dir",
        "data.path",
        "data.mix",
        "data.eval_path",
        "eval.general",
        "eval.lm_eval.tasks",
        "model.id",
        "model.run",
        "model.chat_template",
    ),
    *("adapter.continue_from", "task.teacher"),
)


class Setting(NamedTuple):
    """A recipe value and where it was set: `from_option` when in a value file of ours (`model: smollm2-135m`)."""

    key: str
    value: Any
    origin: str
    from_option: bool


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

    @property
    def trained_on(self) -> str:
        """`448 rows`; of a stream as many as were trained; empty before anything was prepared."""
        if not self.data:
            return ""
        streamed = self.data.get("streamed", {}).get("samples")
        if streamed is None and "streaming" in self.data:
            return "a stream"
        return f"{streamed:,} rows of a stream" if streamed is not None else f"{self.data['train']['rows']:,} rows"

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
        return sorted(found, key=lambda m: (m.is_benchmark, lower_is_better(m.key), bool(m.group), m.key not in HEADLINES[:3]))

    @property
    def lower_is_better(self) -> str:
        """Of what was measured, what is better when lower, in words: `loss and perplexity`."""
        return " and ".join(m.name for m in self.metrics if lower_is_better(m.key))

    @property
    def headline(self) -> Metric | None:
        """The measurement that stands for the run."""
        return next((m for h in HEADLINES for m in self.metrics if m.key == h), None)

    @property
    def verdict(self) -> str:
        """The run in one sentence; empty when nothing was measured."""
        return self.headline.sentence if self.headline else ""

    @property
    def gate(self) -> list[Judgement]:
        """The rules of `eval.gate`, by what was measured."""
        return of_plan(self.plan)

    @property
    def eval_rows(self) -> Path | None:
        """The file of generated answers, where there is one."""
        if not self.plan.has("evaluate"):
            return None
        path = self.folder / "eval" / self.plan.stage("evaluate").key / "rows.jsonl"
        return path if path.is_file() else None

    @property
    def samples(self) -> list[dict[str, str]]:
        """What was painted before and after: `prompt`, and small images of `base` and `tuned` as data: addresses."""
        path = self.eval_rows.with_name("samples.json") if self.eval_rows else None
        return list(read_json(path)) if path and path.is_file() else []

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
        """Whether the base model is of this machine (a folder, or made from another run), and so has no name elsewhere."""
        return "model.id" in self.plan.files or "model.run" in self.plan.files

    @property
    def base_name(self) -> str:
        """The base model without its owner: `SmolLM2-135M-Instruct`."""
        return Path(self.recipe.model.id).name

    @property
    def method(self) -> str:
        """How it was tuned: `LoRA, rank 16` or `full fine-tuning`."""
        adapter = self.recipe.adapter
        if not isinstance(adapter, Lora):
            return adapter.label
        return f"{'DoRA' if adapter.use_dora else adapter.label}, rank {adapter.r}"

    def changed(self) -> list[Setting]:
        """Every recipe value that is not the schema's default: what a person wrote first, then what the options chosen bring along."""
        values = self.public_values()
        found = [
            Setting(k, values[k], public(o), OPTION_FILES in o) for k, o in self.plan.origins.items() if o != "default" and k in values
        ]
        return sorted(found, key=lambda s: s.from_option)

    def public_values(self) -> dict[str, Any]:
        """The recipe by dotted key, without the folders of this machine."""
        return {k: public(v) if k in PATH_KEYS else v for k, v in flat(self.recipe).items()}


def public(value: Any) -> Any:
    """A path by its last part when it names a place on this machine; anything else as it is. Values of mappings and lists one by one."""
    if isinstance(value, dict):
        return {k: public(v) for k, v in value.items()}
    if isinstance(value, list):
        return [public(v) for v in value]
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
