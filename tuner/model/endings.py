"""What a model ends with, by its task: `ending_of(task, names, padding)` -> Ending, which loading takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PretrainedConfig

from tuner.data.labels import NOTHING
from tuner.model.heads import HEADS, with_labels
from tuner.schema.passages import Rerank
from tuner.schema.task import Classes, Problem, Task

IGNORED = {"upernet": "loss_ignore_index"}  # what a model calls the class of pixels that are not labelled, where not as the others


@dataclass(frozen=True, kw_only=True)
class Ending:
    """What the model ends with: a head by its name in HEADS; the names of its outputs and what they are, where it has labels."""

    head: str = "causal"
    labels: Sequence[str] = ()
    problem: str | None = None
    padding: int | None = None
    language: bool = False
    """Whether of a model that sees the language model alone is trained."""

    @property
    def auto(self) -> Any:
        """The class that loads it."""
        return HEADS[self.head].auto

    def of(self, config: PretrainedConfig) -> PretrainedConfig:
        """A base's configuration, with this ending."""
        if self.padding is not None:
            config.get_text_config().pad_token_id = self.padding
        if self.head == "segment":
            setattr(config, IGNORED.get(config.model_type, "semantic_loss_ignore_index"), NOTHING)
        return with_labels(config, self.labels, self.problem) if self.labels else config


CAUSAL = Ending()


def ending_of(task: Task, names: Sequence[str], padding: int | None) -> Ending:
    """The ending of a task's models, with an output for each label where they have some."""
    if not HEADS[task.head].new:
        return Ending(head=task.head)
    problem = task.problem if isinstance(task, Classes | Rerank) else Problem.regression if task.head == "sequence" else None
    kind = {None: None, Problem.regression: "regression"}.get(problem, f"{problem}_classification")
    return Ending(head=task.head, labels=names, problem=kind, padding=padding)
