"""What every stage is given: `Run(plan=…, recipe=…, device=…, tell=…)`, with the folders and the rows of the run."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tuner import progress
from tuner.capacity import settled
from tuner.plan import Plan
from tuner.schema.recipe import Recipe


def suited(recipe: Recipe, device: torch.device) -> Recipe:
    """The recipe with the number formats that this device is fast in, where it leaves them to us."""
    narrow = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else None
    return settled(recipe, device.type, narrow=narrow)


@dataclass(kw_only=True)
class Run:
    """One run of a plan in this process. `kept` holds what a later stage can use again (the tokenizer, raw rows)."""

    plan: Plan
    recipe: Recipe
    device: Any
    tell: Callable[[str], None]
    kept: dict[str, Any] = field(default_factory=dict)
    quiet: bool = False
    leads: bool = True
    """Whether this process writes: of several that train together one does."""
    world: int = 1
    """Processes that train together."""
    loads_on: Any = None
    """Where a model is put that is trained: on `device`, unless it is to be cut over several first."""
    placing: dict[str, Any] = field(default_factory=dict)
    """What else a model is told of devices that is loaded to be trained."""

    def __post_init__(self) -> None:
        self.recipe = suited(self.recipe, self.device)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.plan.folder)

    def stage_folder(self, name: str) -> Path:
        """Where a stage leaves its result: evaluations under `eval/<key>`, shared stages in their own folder."""
        stage = self.plan.stage(name)
        return self.folder / "eval" / stage.key if name == "evaluate" else Path(stage.folder)

    def progress(self, label: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
        """A progress bar on a terminal, lines elsewhere, nothing when quiet; what it yields takes the number of items done."""
        if self.quiet:
            return nullcontext(lambda done: None)
        return progress.bar(label, total)

    def keep(self, name: str, make: Callable[[], Any]) -> Any:
        """`make()`, once in this process."""
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]
