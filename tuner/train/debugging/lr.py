"""`debug=lr`: the rate rises from step to step; where the loss falls fastest is a good one to train with."""

from __future__ import annotations

import math
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.runs import write_json
from tuner.schema.debug import LrFinder

SMOOTHING, DIVERGED = 0.9, 3.0  # of the loss from step to step, in 100 steps; times its lowest fall, above the lowest, at which it ends
LINES = 16


def watch(run: Run, debug: LrFinder) -> TrainerCallback:
    """The one who turns the rate up."""
    return Rising(run, debug)


class Rising(TrainerCallback):
    """Sets the rate before each step; ends when the smoothed loss has risen, and says what to take."""

    def __init__(self, run: Run, debug: LrFinder) -> None:
        self.run, self.debug = run, debug
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.keep, self.mean = SMOOTHING ** (100 / debug.steps), 0.0

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any) -> None:
        """Over what the schedule would set; groups keep their ratios (LoRA+)."""
        share = state.global_step / max(1, self.debug.steps - 1)
        rate = self.debug.lr_min * (self.debug.lr_max / self.debug.lr_min) ** share
        self.rates.append(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"] / args.learning_rate if args.learning_rate else rate

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Smooth, and look whether it has gone wrong."""
        if not logs or "loss" not in logs:
            return
        loss, logs["learning_rate"] = logs["loss"], self.rates[-1]
        if not math.isfinite(loss):
            control.should_training_stop = True
            return
        self.losses.append(loss)
        self.mean = self.keep * self.mean + (1 - self.keep) * loss
        self.smoothed.append(self.mean / (1 - self.keep ** len(self.losses)))
        lowest = min(self.smoothed)
        fall = max(self.smoothed[0] - lowest, 0.05 * self.smoothed[0])
        if len(self.smoothed) > 5 and self.smoothed[-1] > lowest + DIVERGED * fall:
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the curve, draw it, and suggest. Raises TuneError (code 3) where the loss fell at no rate."""
        rates = self.rates[: len(self.smoothed)]
        if not rates:
            fix = "look at the model's weights and at `trainer.precision`"
            raise TuneError(f"the loss is not a number at the lowest rate, {self.debug.lr_min:.1g}", "debug", fix, code=GATE)
        found = suggest(rates, self.smoothed)
        curve = [{"learning_rate": r, "loss": lo, "smoothed": s} for r, lo, s in zip(rates, self.losses, self.smoothed, strict=True)]
        if self.run.leads:
            write_json(self.run.folder / "lr_finder.json", {"suggestion": found, "curve": curve})
        for line in drawn(rates, self.smoothed):
            self.run.tell(line)
        if found is None:
            fix = "raise `debug.lr_max` or `debug.steps`; `debug=overfit` tells whether anything can be learned"
            raise TuneError(f"the loss fell at no rate between {rates[0]:.1g} and {rates[-1]:.1g}", "debug", fix, code=GATE)
        self.run.tell(f"the loss falls fastest near {found:.1e}: trainer.learning_rate={found:.1e}")


def suggest(rates: list[float], losses: list[float]) -> float | None:
    """The rate of the steepest descent before the lowest point, and at most a third of the rate there; None where nothing falls."""
    if len(losses) < 5:
        return None
    low = losses.index(min(losses))
    if losses[0] - losses[low] < 0.02 * losses[0]:
        return None
    width = 2
    slopes = {i: losses[i + width] - losses[i - width] for i in range(width, min(low + 1, len(losses) - width))}
    best = min(slopes, key=lambda i: slopes[i]) if slopes else low
    return min(rates[best], rates[low] / 3)


def drawn(rates: list[float], losses: list[float]) -> list[str]:
    """A line for each of some rates, with a bar as long as the loss is high."""
    step = max(1, len(rates) // LINES)
    low, high = min(losses), max(losses)
    lines = []
    for i in range(0, len(rates), step):
        share = (losses[i] - low) / (high - low or 1.0)
        lines.append(f"{rates[i]:.1e}  {losses[i]:8.4f}  {'█' * round(40 * share) or '▏'}")
    return lines
