"""`debug=noise`: how noisy gradients are, and so which global batch is worth its price (https://arxiv.org/abs/1812.06162).

The squared norm of a gradient over n rows is |G|² + tr(S) / n in the mean, G being the true gradient and S the covariance of one row's.
Seen at two sizes, micro-batch and global batch, it gives both; their ratio tr(S) / |G|² is the simple noise scale, in rows: below it, twice
the rows save nearly half of the steps, above it hardly any.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.runs import write_json
from tuner.schema.debug import Noise


def watch(run: Run, debug: Noise) -> TrainerCallback:
    """The one who measures."""
    return Measure(run, debug)


def scales(small: list[float], large: list[float], b: int, batch: int) -> tuple[float, float]:
    """(|G|², tr(S)) from mean squared norms at `b` and at `batch` rows, both without bias: means over steps first, then the difference."""
    few, many = sum(small) / len(small), sum(large) / len(large)
    return (batch * many - b * few) / (batch - b), (few - many) / (1 / b - 1 / batch)


class Measure(TrainerCallback):
    """Takes the gradient of each micro-batch out of what has been summed so far, and the whole before the step."""

    def __init__(self, run: Run, debug: Noise) -> None:
        self.run, self.debug = run, debug
        self.before: list[Tensor | None] = []
        self.small: list[float] = []
        self.large: list[float] = []
        self.parts: list[float] = []

    def _part(self, model: Any) -> float:
        """The squared norm of what the last micro-batch has added."""
        now = [p.grad for p in model.parameters() if p.requires_grad]
        before = self.before or [None] * len(now)
        pairs = [(g, b) for g, b in zip(now, before, strict=True) if g is not None]
        self.before = [None if g is None else g.detach().clone() for g in now]
        return float(sum((g if b is None else g - b).float().square().sum() for g, b in pairs))

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Nothing is summed yet."""
        self.before, self.parts = [], []

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """A micro-batch that is not the last."""
        self.parts.append(self._part(model))

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """The last one, and their sum. The loss is divided by the batch's tokens, so a part is its rows' mean over the number of parts."""
        self.parts.append(self._part(model))
        count = len(self.parts)
        if count != args.gradient_accumulation_steps:  # the end of an epoch: another size
            return
        self.small.append(sum(self.parts) / count * count**2)
        self.large.append(float(sum(g.float().square().sum() for g in self.before if g is not None)))

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write and tell. Raises TuneError (code 3) where so few steps cannot tell the signal from the noise."""
        b, batch = args.per_device_train_batch_size, self.run.recipe.trainer.batch_size
        if not self.large:
            raise TuneError("no step had a whole batch", "debug", "use more rows, or a smaller `trainer.batch_size`", code=GATE)
        signal, noise = scales(self.small, self.large, b, batch)
        found = noise / signal if signal > 0 else None
        facts = {"noise_scale_rows": found, "gradient_squared": signal, "covariance_trace": noise, "steps": len(self.large)}
        write_json(self.run.folder / "noise.json", facts | {"rows": [b, batch]})
        if found is None or noise <= 0:
            fix = "raise `debug.steps` or `trainer.batch_size`"
            raise TuneError(f"{len(self.large)} steps cannot tell the gradient from its noise", "debug", fix, code=GATE)
        near = max(1, 2 ** round(torch.tensor(found).log2().item()))
        self.run.tell(f"gradient noise scale: {found:.3g} rows, over {len(self.large)} steps at {b} and {batch} rows")
        self.run.tell(f"more rows save steps up to about trainer.batch_size={near}; beyond it they save few")
