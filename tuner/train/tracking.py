"""Dashboards: `trackers(run)` gives the callbacks for `tracking: wandb | trackio | tensorboard`; the recipe is the run's configuration."""

from __future__ import annotations

import netrc
import os
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

from transformers import TrainerCallback

from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.base import flat
from tuner.schema.tracking import NoTracking, Tensorboard, Tracker, Tracking


class _Scalars(TrainerCallback):
    """Sends what training logs to one of three dashboards, through its own client."""

    def __init__(self, send: Any, finish: Any) -> None:
        self.send, self.finish = send, finish

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Numbers of a logged step."""
        self.send({name: value for name, value in (logs or {}).items() if isinstance(value, int | float)}, state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the dashboard's run."""
        self.finish()


def trackers_ready(tracking: Tracking) -> None:
    """Raises TuneError (code 4) when the chosen dashboard's package is not installed, or when wandb would ask for an API key."""
    if not isinstance(tracking, NoTracking) and find_spec(tracking.kind) is None:
        fix = f"pip install 'tuner[{tracking.kind}]', or use tracking=none"
        raise TuneError(
            f"tracking={tracking.kind} needs a package that is not installed: {tracking.kind}", "tracking", fix, code=ENVIRONMENT
        )
    if tracking.kind == "wandb" and not _wandb_can_start():
        fix = "`wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline (needs no account), or use tracking=none"
        raise TuneError("wandb has no API key", "tracking", fix, code=ENVIRONMENT)


def _wandb_can_start() -> bool:
    """Whether it is told to stay offline, or has a key: in the environment, or where `wandb login` leaves it."""
    if os.environ.get("WANDB_API_KEY") or load("wandb").setup().settings.mode not in (None, "online", "shared"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def trackers(run: Run) -> list[TrainerCallback]:
    """Callbacks of the chosen dashboard. Raises TuneError (code 4) when its package is missing or refuses to start."""
    tracking = run.recipe.tracking
    trackers_ready(tracking)
    if isinstance(tracking, NoTracking):
        return []
    name = f"{run.plan.name}-{run.folder.name}"
    try:
        if isinstance(tracking, Tensorboard):
            writer = load("torch.utils.tensorboard").SummaryWriter(str(run.folder / "tensorboard"))
            return [_Scalars(lambda logs, step: [writer.add_scalar(k, v, step) for k, v in logs.items()], writer.close)]
        assert isinstance(tracking, Tracker)
        client = load(tracking.kind)
        # The same id again, so that a resumed run goes on in its old curve.
        same = {"id": name, "resume": "allow", "dir": str(run.folder)} if tracking.kind == "wandb" else {"resume": "allow"}
        client.init(project=tracking.project, name=name, config=flat(run.recipe), **same)
        return [_Scalars(lambda logs, step: client.log(logs, step=step), client.finish)]
    except Exception as error:  # each client has exceptions of its own
        offline = " (WANDB_MODE=offline needs no account)" if tracking.kind == "wandb" else ""
        fix = f"check your account{offline}, or use tracking=none"
        raise TuneError(f"{tracking.kind} did not start: {str(error).splitlines()[0]}", "tracking", fix, code=ENVIRONMENT) from error
