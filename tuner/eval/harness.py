"""Tasks of lm-evaluation-harness: `Harness(wanted, files).measured(model, tokenizer, …)` -> {"arc_easy": Benchmark(…)}.

The harness lays out prompts, asks the model in this process and scores; what it says of each row is kept, for the interval of a change.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2.sandbox import SandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from tuner.errors import ENVIRONMENT, TuneError, nearest
from tuner.eval.compare import compare
from tuner.eval.scores import Scored
from tuner.registry import load
from tuner.schema.eval import LmEval
from tuner.task_files import is_file, read_task

KEY = "eval.lm_eval.tasks"


@dataclass(kw_only=True)
class Benchmark:
    """One task's result: a score a row, by `task/metric`; `totals`: metrics that are no mean of rows' (a corpus score, a perplexity)."""

    rows: list[dict[str, float]] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)


@cache
def _index(manager: Any, shipped: bool) -> Any:
    """The harness's own list of tasks: 14,000 files, 6 s; none where only files of one's own are named."""
    return manager(include_defaults=shipped)


class Harness:
    """The tasks that a recipe names, found. Raises TuneError: code 4 without the package, code 2 for a task that there is not."""

    def __init__(self, wanted: LmEval, files: list[str]) -> None:
        """`files`: the task files among `wanted.tasks`, absolute and in their order."""
        try:
            self.library: Any = load("lm_eval")
            models, tasks = load("lm_eval.models.huggingface"), load("lm_eval.tasks")
            utils: Any = load("lm_eval.utils")
        except ImportError as error:
            fix = "pip install 'tuner[lm-eval]'"
            raise TuneError("lm-evaluation-harness is not installed", KEY, fix, code=ENVIRONMENT) from error
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        if not isinstance(utils.env, SandboxedEnvironment):  # templates of a task file reach no code
            sandbox = SandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
            sandbox.filters |= utils.env.filters
            utils.env = sandbox
        self.wanted, self.model_class = wanted, models.HFLM
        plain = iter(files)
        self.specs: list[Any] = [read_task(Path(next(plain))) if is_file(name) else name for name in wanted.tasks]
        self.manager: Any = _index(tasks.TaskManager, any(isinstance(spec, str) for spec in self.specs))
        for name in (spec for spec in self.specs if isinstance(spec, str)):
            if name not in self.manager.all_tasks:
                guess = nearest(name, self.manager.all_tasks)
                fix = f"did you mean `{guess}`?" if guess else "`lm-eval ls tasks` lists them; a file of your own ends in .yaml"
                raise TuneError(f"lm-evaluation-harness has no task `{name}`", KEY, fix)

    def measured(self, model: Any, tokenizer: PreTrainedTokenizerBase, *, batch_size: int, tell: Callable[[str], None]) -> dict[str, Any]:
        """Each task, asked. Raises TuneError (code 4) where its rows cannot be had, (code 2) where it is not for such a model."""
        with _quiet():
            asked = self.model_class(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        found: dict[str, Benchmark] = {}
        for spec in self.specs:
            name = spec if isinstance(spec, str) else spec["task"]
            tell(f"lm-eval: {name}")
            with self._explained(name), _quiet():
                loaded = self.manager.load([spec])
                for task in loaded["tasks"].values():
                    if self.wanted.num_fewshot is not None or task.get_config("num_fewshot") is None:
                        task.set_config(key="num_fewshot", value=self.wanted.num_fewshot or 0)
                    task.set_fewshot_seed(seed=1234)  # the harness's own
                options: dict[str, Any] = {"apply_chat_template": self.wanted.apply_chat_template, "limit": self.wanted.limit}
                options |= {"fewshot_as_multiturn": self.wanted.apply_chat_template, "bootstrap_iters": 0}
                result = self.library.evaluate(asked, loaded, log_samples=True, **options)
            parts = {name: list(loaded["tasks"])} if name in loaded["groups"] else {task: [task] for task in loaded["tasks"]}
            found |= {whole: _benchmark(whole, tasks, result) for whole, tasks in parts.items()}
        return found

    @contextlib.contextmanager
    def _explained(self, name: str) -> Iterator[None]:
        try:
            yield
        except TuneError:
            raise
        except (OSError, ConnectionError) as error:  # datasets and huggingface_hub: offline, no such set
            what = f"the rows of the lm-eval task `{name}` cannot be had: {_first_line(error)}"
            raise TuneError(what, KEY, "they come from the Hub the first time: see that it can be reached", code=ENVIRONMENT) from error
        except Exception as error:
            what = f"the lm-eval task `{name}` failed: {type(error).__name__}: {_first_line(error)}"
            raise TuneError(what, KEY, "mend the task file, or leave the task out") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no reason given"])[0]


def _benchmark(whole: str, tasks: list[str], result: dict[str, Any]) -> Benchmark:
    """What the harness says of a task, or of the tasks of a group together."""
    rows: dict[tuple[str, int], dict[str, float]] = {}
    for task in tasks:
        for sample in result["samples"][task]:
            scores = rows.setdefault((task, sample["doc_id"]), {})
            for metric in sample["metrics"]:
                value, shown = sample[metric], metric if sample["filter"] == "none" else f"{metric}:{sample['filter']}"
                if isinstance(value, bool | int | float | np.number):
                    scores[f"{whole}/{shown}"] = float(value)
    said = _said(whole, result["results"].get(whole) or {})
    means = {key: np.mean([row[key] for row in rows.values() if key in row]) for key in {key for row in rows.values() for key in row}}
    by_row = {key for key, mean in means.items() if key not in said or math.isclose(mean, said[key], rel_tol=1e-9, abs_tol=1e-12)}
    kept = [{key: value for key, value in row.items() if key in by_row} for row in rows.values()]
    return Benchmark(rows=kept, totals={key: value for key, value in said.items() if key not in by_row})


def _said(whole: str, result: dict[str, Any]) -> dict[str, float]:
    """The harness's own results, `acc,none` as `task/acc`."""
    found = {}
    for key, value in result.items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr") and isinstance(value, int | float | np.number):
            found[f"{whole}/{metric}" + ("" if filtered == "none" else f":{filtered}")] = float(value)
    return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The harness draws bars of its own."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        yield


def compared(base: dict[str, Benchmark], tuned: dict[str, Benchmark], *, samples: int, seed: int) -> Iterator[dict[str, dict[str, Any]]]:
    """What joins metrics.json, task by task: means with their intervals, totals without."""
    for name, before in base.items():
        after = tuned[name]
        if before.rows and any(before.rows):
            both = [[Scored(prompt=[], reference="", scores=row) for row in side.rows] for side in (before, after)]
            found = compare(both[0], both[1], samples=samples, seed=seed, formulas={})
            yield {part: found[part] for part in ("base", "tuned", "intervals", "verdicts")}
        if before.totals:
            yield {"base": before.totals, "tuned": after.totals, "intervals": {}, "verdicts": {}}
