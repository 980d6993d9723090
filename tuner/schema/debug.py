"""The `debug:` section: quick ways to see whether a recipe works, before the hours are spent. `tune recipe=R debug=overfit`.

Each sets other keys (what is typed beside it stays), goes into a run of its own (`<name>-overfit`) and leaves the recipe's own run alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from tuner.registry import kind
from tuner.schema.base import Section, opt

WARMUP = 2  # steps before those that are profiled
# Only training is wanted: nothing measured, published, saved or chosen.
BARE: dict[str, Any] = {
    "eval.enabled": False,
    "hub.enabled": False,
    "trainer.save_steps": 0,
    "trainer.eval_steps": 0,
    "trainer.logging_steps": 1,
    "trainer.load_best_model_at_end": False,
    "trainer.early_stopping_patience": None,
    "trainer.warmup_ratio": 0.0,
}


@dataclass(kw_only=True)
class Debug(Section):
    """What all have. `impl` names a module whose `watch(run, debug)` gives a callback of the training; none: the changes are all."""

    keeps: ClassVar[bool] = True
    """Whether the result is kept."""

    def changes(self) -> dict[str, Any]:
        """Values of other keys; a function makes one of the value that is there."""
        return {}

    @property
    def least_steps(self) -> int:
        """Optimizer steps that it cannot do without."""
        return 0


@kind("debug", "none")
@dataclass(kw_only=True)
class NoDebug(Debug):
    """The recipe as it is."""


@dataclass(kw_only=True)
class Mode(Debug):
    """Those that change something."""

    variant_affects: ClassVar[str] = "train"


@kind("debug", "fast")
@dataclass(kw_only=True)
class Fast(Mode):
    """Every stage, in a minute: a few steps, a few held-out rows, published into a folder at most."""

    steps: int = opt(3, affects="train", ge=1)
    """Optimizer steps."""
    rows: int = opt(4, affects="train", ge=1)
    """Held-out rows that are measured."""

    def changes(self) -> dict[str, Any]:
        """Fewer of everything."""
        few = {
            "trainer.max_steps": self.steps,
            "trainer.eval_steps": lambda now: min(now, self.steps),
            "eval.limit": self.rows,
            "eval.max_new_tokens": 16,
            "task.max_completion_length": lambda now: min(now, 16),
            "eval.bootstrap_samples": 100,
        }
        return few | {"trainer.save_steps": 1, "trainer.logging_steps": 1, "hub.repo_id": None}


@kind("debug", "overfit")
@dataclass(kw_only=True)
class Overfit(Mode):
    """The first batch again and again: a set-up that can learn learns it by heart. A gate (exit 3) when it does not."""

    impl: ClassVar[str] = "tuner.train.debugging.overfit"
    keeps: ClassVar[bool] = False

    steps: int = opt(100, affects="train", ge=2)
    """Steps at most; it ends when the loss has fallen far enough."""
    share: float = opt(0.2, affects="train", gt=0, lt=1)
    """Of the first loss, what must be reached."""

    def changes(self) -> dict[str, Any]:
        """A constant rate, and nothing that hinders."""
        still = {"trainer.lr_scheduler_type": "constant", "trainer.neftune_noise_alpha": None, "trainer.label_smoothing_factor": 0.0}
        return BARE | still | {"trainer.max_steps": self.steps, "trainer.ema_decay": None, "adapter.lora_dropout": 0.0}


@kind("debug", "profile")
@dataclass(kw_only=True)
class Profile(Mode):
    """A few steps under PyTorch's profiler: where the time goes, and a trace for Perfetto (https://ui.perfetto.dev)."""

    impl: ClassVar[str] = "tuner.train.debugging.profile"
    keeps: ClassVar[bool] = False

    steps: int = opt(3, affects="train", ge=1)
    """Steps that are recorded, after two that warm up."""

    def changes(self) -> dict[str, Any]:
        """As many steps as are needed."""
        return BARE | {"trainer.max_steps": self.least_steps}

    @property
    def least_steps(self) -> int:
        """With those before."""
        return self.steps + WARMUP


@kind("debug", "lr")
@dataclass(kw_only=True)
class LrFinder(Mode):
    """The learning rate rises from step to step until the loss does (https://arxiv.org/abs/1506.01186); suggests one."""

    impl: ClassVar[str] = "tuner.train.debugging.lr"
    keeps: ClassVar[bool] = False

    steps: int = opt(100, affects="train", ge=10)
    """Steps from the lowest rate to the highest."""
    lr_min: float = opt(1e-6, affects="train", gt=0)
    """Where it begins."""
    lr_max: float = opt(1.0, affects="train", gt=0)
    """Where it ends, when the loss has not risen before."""

    def changes(self) -> dict[str, Any]:
        """The rate is set from step to step, over a constant schedule."""
        return BARE | {"trainer.max_steps": self.steps, "trainer.lr_scheduler_type": "constant", "trainer.ema_decay": None}

    @property
    def least_steps(self) -> int:
        """To the highest rate."""
        return self.steps


@kind("debug", "noise")
@dataclass(kw_only=True)
class Noise(Mode):
    """How much gradients differ from row to row (https://arxiv.org/abs/1812.06162); suggests a global batch size."""

    impl: ClassVar[str] = "tuner.train.debugging.noise"
    keeps: ClassVar[bool] = False

    steps: int = opt(50, affects="train", ge=2)
    """Steps over which it is estimated."""

    def changes(self) -> dict[str, Any]:
        """Each row passes alone; at a constant rate."""
        still = {"trainer.lr_scheduler_type": "constant", "trainer.label_smoothing_factor": 0.0, "trainer.ema_decay": None}
        return BARE | still | {"trainer.max_steps": self.steps, "hardware.micro_batch_size": 1}

    @property
    def least_steps(self) -> int:
        """All of them."""
        return self.steps
