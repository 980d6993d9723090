"""The `tracking:` section: which dashboard follows a run. `tracking: wandb`, then `tracking: {project: tickets}`."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.registry import kind
from tuner.schema.base import Section, opt


@dataclass(kw_only=True)
class Tracking(Section):
    """What every tracker has; `train_log.jsonl` is written with any of them."""


@kind("tracking", "none")
@dataclass(kw_only=True)
class NoTracking(Tracking):
    """Only the run folder's own log."""


@dataclass(kw_only=True)
class Tracker(Tracking):
    """What the dashboards have in common."""

    project: str = opt("tuner")
    """Project that runs are filed under."""


@kind("tracking", "wandb")
@dataclass(kw_only=True)
class Wandb(Tracker):
    """Weights & Biases (WANDB_MODE=offline works without an account)."""


@kind("tracking", "trackio")
@dataclass(kw_only=True)
class Trackio(Tracker):
    """Trackio, a dashboard on this machine (`trackio show`; its data lie where TRACKIO_DIR says)."""


@kind("tracking", "tensorboard")
@dataclass(kw_only=True)
class Tensorboard(Tracking):
    """TensorBoard event files under the run folder's `tensorboard/`."""
