"""What ends a training that goes nowhere: a loss gone wrong (`LossGuard`), gradients that never come (`GradientsFlow`)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.errors import GATE, TuneError
from tuner.train.checkpoints import all_checkpoints, step_of
from tuner.train.together import either

ALIKE = 20  # steps on end whose answers are all worth the same
MOST_OVERFLOWS = 20  # steps on end: from 65,536 the loss scale has then fallen below a tenth
WORDLESS = 32_000  # as many as a vocabulary has, where a model has none: an image's loss may begin as high


class LossGuard(TrainerCallback):
    """Stops on a loss that is no number or has exploded, before the step can be saved. Raises TuneError (code 3).

    What does not learn to write (`writes`) may lose next to nothing on one batch and much on another: it is compared with where it began.
    """

    def __init__(self, factor: float, *, writes: bool = True) -> None:
        self.factor, self.lowest, self.chance, self.writes = factor, math.inf, math.inf, writes
        self.overflows = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """A resumed training is compared with what it had reached. `chance` is the loss of a model that guesses any token alike."""
        text = model.config.get_text_config().to_dict() if isinstance(model.config, PretrainedConfig) else {}
        self.chance = math.log(text.get("vocab_size") or WORDLESS)
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        self.lowest = (min(losses) if self.writes else losses[0]) if losses else math.inf

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A step that will be saved is looked at first."""
        control.should_log = control.should_log or control.should_save

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Compare with the lowest loss so far."""
        if not logs or "loss" not in logs:
            return
        loss = logs["loss"]
        overflow = not math.isfinite(logs.get("grad_norm", 0.0))
        # In fp16 a gradient that overflows is how the loss scale is found: that step is left out, and the scale halved.
        self.overflows = self.overflows + 1 if overflow else 0
        if not math.isfinite(loss) or self.overflows > (MOST_OVERFLOWS if args.fp16 else 0):
            self._stop("the loss or its gradient is not a number", args, state)
        worse_than_chance = self.writes and loss > 2 * max(self.chance, self.lowest)
        if worse_than_chance or loss > self.factor * max(self.lowest, 0.05 if self.writes else 1.0):
            before = "at its lowest" if self.writes else "at the first step"
            self._stop(f"the loss has exploded: {loss:.3g}, after {self.lowest:.3g} {before}", args, state)
        if self.writes or self.lowest == math.inf:
            self.lowest = min(self.lowest, loss)

    def _stop(self, what: str, args: TrainingArguments, state: TrainerState) -> None:
        kept = all_checkpoints(Path(args.output_dir or ""))
        last = f"; the checkpoint of step {step_of(kept[-1])} is kept" if kept else ""
        fix = f"lower `trainer.learning_rate` (now {args.learning_rate:g}), raise `trainer.warmup_ratio`, or look at the rows"
        raise TuneError(f"{what}{last}", f"training step {state.global_step}", fix, code=GATE)


class GradientsFlow(TrainerCallback):
    """Looks at the first gradients of a session. Raises TuneError (code 3) when not one of them is other than zero.

    A quantised model that has generated and is left in eval gives none, without an error; neither does an adapter that nothing passes.
    Where rewards of sampled answers are alike there is none to give: so many steps on end (`alike`) are let pass.
    """

    def __init__(self, alike: int = 0) -> None:
        self.seen, self.alike = False, alike

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Before the first update."""
        if not self.seen and not either(any(_flows(p) for p in model.parameters() if p.requires_grad)):
            if self.alike > 1:
                self.alike -= 1
                return
            if self.alike:
                what = f"in {ALIKE} steps no prompt had answers of different worth: there is nothing to learn from"
                fix = "look at the answers (`tune try`): easier prompts, another reward beside it, more `task.num_generations`"
                raise TuneError(what, f"training step {state.global_step + 1}", fix, code=GATE)
            fix = "what is trained is not used: look at `adapter` (its targets), and at `data` (rows with something to learn)"
            raise TuneError("no gradient reaches what is trained", f"training step {state.global_step + 1}", fix, code=GATE)
        self.seen = True


def _flows(parameter: Any) -> bool:
    """Whether a parameter has a gradient other than zero, in the part that is held here; DeepSpeed keeps its gradients to itself."""
    gradient = parameter.grad
    if gradient is None:
        return hasattr(parameter, "ds_id") or hasattr(parameter, "_hp_mapping")
    return bool((gradient.to_local() if hasattr(gradient, "to_local") else gradient).any())
