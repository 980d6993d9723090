"""Tasks: one module a kind of learning, with the functions of the Protocol `Task`, which `module_of(recipe.task)` imports.

What they share are functions, not base classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, cast

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data.load import Rows
from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval.scores import Formula, Scored
from tuner.registry import load as load_module
from tuner.schema import task as declared


class Task(Protocol):
    """What the pipeline asks of a task module (`tuner.tasks.sft` is one)."""

    def prepare(self, run: Run, rows: Rows, folder: Path) -> None:
        """Training rows in; model-ready rows, `data.json`, `audit.json` out. Raises TuneError (code 3) when they cannot teach."""

    def check(self, run: Run, rows: Rows) -> None:
        """Raises TuneError when the held-out rows cannot be measured: what `tune check` and a run ask before any training."""

    def possible(self, run: Run) -> None:
        """Raises TuneError when the recipe cannot be trained with this model (no weights are loaded): asked before anything is measured."""

    def show(self, run: Run, rows: Rows, index: int) -> dict[str, Any]:
        """A training row as the model sees it: `place`, `tokens` (None of an image), `supervised_tokens` (None where labels stand beside
        them), `truncated`, `segments` of text and trained."""

    def load(self, run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
        """The base model, the model to train (`trainable`), or the result in the folder `tuned`."""

    def trainer(self, run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
        """A trainer over what `prepare` wrote."""

    def probe(self, run: Run, model: nn.Module) -> float:
        """The loss of a few training rows: the same before a result is saved and after it is loaded, or it was not saved."""

    def score(self, run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
        """Scores of each held-out row."""

    def formulas(self, run: Run) -> dict[str, Formula]:
        """What is measured over all rows together, such as the loss or F1: of sums over the rows' counts."""

    def save(self, run: Run, model: Any, folder: Path) -> None:
        """Write what a user loads: weights, processor, generation settings."""


def module_of(task: declared.Task) -> Task:
    """The module of a task. Raises TuneError (code 4) where a package that it needs beside ours is not installed."""
    try:
        return cast(Task, load_module(task.impl))
    except ModuleNotFoundError as error:
        if not task.extra:
            raise
        fix = f"pip install 'tuner[{task.extra}]'"
        raise TuneError(f"`task={task.kind}` needs {error.name}", "task", fix, code=ENVIRONMENT) from error
