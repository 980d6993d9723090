"""`debug=lr`: the rate rises from step to step; where the loss falls fastest is a good one to train with."""

from __future__ import annotations

import math
from itertools import pairwise
from statistics import NormalDist, fmean, median
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.runs import write_json
from tuner.schema.debug import LrFinder

DIVERGED = 3.0  # times its fall, above the lowest, is where it ends
STRETCH, MOST_SMOOTHING = 10, 0.98  # the loss is smoothed over a tenth of the steps
LEAST_FALL, LEAST_CHANCES = 0.01, 3.0  # of the loss before it, and in standard deviations: less is no fall
FEWEST = 3  # steps before the lowest loss
LINES = 16


def watch(run: Run, debug: LrFinder) -> TrainerCallback:
    """The one who turns the rate up."""
    return Rising(run, debug)


class Rising(TrainerCallback):
    """Sets the rate before each step; ends when the smoothed loss has risen, and says what to take."""

    def __init__(self, run: Run, debug: LrFinder) -> None:
        self.run, self.debug = run, debug
        self.weight = smoothing(debug.steps)
        self.rate, self.sum = debug.lr_min, 0.0
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, optimizer: Any = None, **_: Any) -> None:
        """Over what the schedule would set; groups keep their ratios (LoRA+)."""
        share = state.global_step / max(1, self.debug.steps - 1)
        self.rate = rate = self.debug.lr_min * (self.debug.lr_max / self.debug.lr_min) ** share
        for group in optimizer.param_groups:
            group["lr"] = rate * group["initial_lr"] / args.learning_rate if args.learning_rate else rate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Each loss is that of its own rate, whatever `trainer.logging_steps` is."""
        control.should_log = True
        control.should_training_stop = control.should_training_stop or state.global_step >= self.debug.steps

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Smooth, and look whether it has gone wrong. Who logs after this sees the rate that was in use."""
        if not logs or "loss" not in logs:
            return
        loss, logs["learning_rate"] = logs["loss"], self.rate
        if not math.isfinite(loss):
            control.should_training_stop = True
            return
        self.rates.append(self.rate)
        self.losses.append(loss)
        self.sum = self.weight * self.sum + (1 - self.weight) * loss
        self.smoothed.append(self.sum / (1 - self.weight ** len(self.losses)))
        lowest = min(self.smoothed)
        fall = max(self.smoothed[0] - lowest, 0.05 * self.smoothed[0])
        if len(self.smoothed) > 5 and self.smoothed[-1] > lowest + DIVERGED * fall:
            control.should_training_stop = True

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the curve, draw it, and suggest. Raises TuneError (code 3) where the loss fell at no rate, or is none."""
        rates = self.rates
        if not rates:
            fix = "look at `trainer.precision` and at the rows; where the first step alone breaks it, lower `debug.lr_min`"
            raise TuneError(f"the loss is not a number, at a rate of {self.rate:.1g}", "debug", fix, code=GATE)
        found = suggest(rates, self.smoothed) if falls(self.losses, self.smoothed, self.weight) else None
        curve = [{"learning_rate": r, "loss": lo, "smoothed": s} for r, lo, s in zip(rates, self.losses, self.smoothed, strict=True)]
        if self.run.leads:
            write_json(self.run.folder / "lr_finder.json", {"suggestion": found, "curve": curve})
        for line in drawn(rates, self.smoothed):
            self.run.tell(line)
        if found is None:
            fix = "raise `debug.lr_max` or `debug.steps`; `debug=overfit` tells whether anything can be learned"
            raise TuneError(f"the loss fell at no rate between {rates[0]:.1g} and {rates[-1]:.1g}", "debug", fix, code=GATE)
        self.run.tell(f"the loss falls fastest near {found:.1e}: trainer.learning_rate={found:.1e}")


def smoothing(steps: int) -> float:
    """The weight of what was before, so that the loss is smoothed over a tenth of the steps: 0.9 of 100, 0.5 of 20, none of 10."""
    return min(MOST_SMOOTHING, max(0.0, 1 - STRETCH / steps))


def falls(losses: list[float], smoothed: list[float], weight: float) -> bool:
    """Whether the lowest smoothed loss is below the first third of those before it by more than batches differ by chance.

    That is told from the median change between two steps, which a steep fall does not move.
    """
    low = smoothed.index(min(smoothed))
    if low < FEWEST:
        return False
    first = max(2, low // 3)
    before = fmean(losses[:first])
    one = median(abs(b - a) for a, b in pairwise(losses[: low + 1])) / (math.sqrt(2) * NormalDist().inv_cdf(0.75))
    chance = one * math.sqrt((1 - weight) / (1 + weight) + 1 / first)
    return before - smoothed[low] > max(LEAST_FALL * before, LEAST_CHANCES * chance)


def suggest(rates: list[float], losses: list[float]) -> float:
    """The rate of the steepest descent before the lowest point, and at most a third of the rate there."""
    low = losses.index(min(losses))
    width = max(2, len(losses) // STRETCH)
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
