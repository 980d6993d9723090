"""`debug=overfit`: the loss of one batch must fall far below where it began."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.schema.debug import Overfit


def watch(run: Run, debug: Overfit) -> TrainerCallback:
    """The judge."""
    return Judge(run, debug)


class Judge(TrainerCallback):
    """Ends the training when it has learned the batch. Raises TuneError (code 3) when it has not in all its steps."""

    def __init__(self, run: Run, debug: Overfit) -> None:
        self.run, self.debug = run, debug
        self.losses: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Each step is looked at, whatever `trainer.logging_steps` is."""
        control.should_log = True

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Every step."""
        if logs and "loss" in logs:
            self.losses.append(logs["loss"])
            control.should_training_stop = control.should_training_stop or self.learned

    @property
    def learned(self) -> bool:
        """Whether the loss is low enough."""
        return self.losses[-1] <= self.debug.share * self.losses[0]

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The verdict."""
        first, last, steps = self.losses[0], self.losses[-1], state.global_step
        if self.learned:
            self.run.tell(f"one batch is learned by heart: its loss fell from {first:.3g} to {last:.3g} in {steps} steps")
            return
        what = f"one batch is not learned by heart: its loss is {last:.3g} after {steps} steps, and was {first:.3g}"
        rate = f"raise `trainer.learning_rate` (now {args.learning_rate:g}; `debug=lr` suggests one) or `debug.steps`"
        fix = f"{rate}; look at what is trained with `tune preview`, and at `adapter` (rank, targets, what is frozen)"
        raise TuneError(what, "debug", fix, code=GATE)
