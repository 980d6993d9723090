"""`debug=noise`: how much gradients differ from row to row, and so how large a global batch is of use.

The gradient noise scale of McCandlish et al. 2018 (https://arxiv.org/abs/1812.06162): tr(Sigma) / |G|^2, where Sigma is the covariance of
one row's gradient and G its mean. Rows differ in trained tokens, and the loss is a mean over tokens: both are estimated a token, and told
a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import ENVIRONMENT, GATE, TuneError
from tuner.model.packed import IGNORE
from tuner.runs import write_json
from tuner.schema.debug import Noise

NEAR = 10  # steps on either side


def watch(run: Run, debug: Noise) -> TrainerCallback:
    """The one who measures."""
    return Measure(run, debug)


@dataclass(frozen=True)
class Sample:
    """A step: the trained tokens of each micro-batch, the squared norm of its part of the gradient, and that of the whole."""

    tokens: list[int]
    parts: list[float]
    whole: float

    @property
    def trace(self) -> float:
        """The trace of the covariance of one token's gradient, unbiased: by how much micro-batches differ from the whole."""
        total = sum(self.tokens)
        # A part is its mean gradient times its share of the tokens.
        small = sum(part * total / own for part, own in zip(self.parts, self.tokens, strict=True))
        return (small - self.whole) * total / (len(self.parts) - 1)

    @property
    def signal(self) -> float:
        """The squared norm of the true gradient, unbiased."""
        return self.whole - self.trace / sum(self.tokens)


@dataclass(frozen=True)
class Estimate:
    """Over all steps; `rows` and `error` in rows, None where the gradient cannot be told from its noise."""

    signal: float
    trace: float
    tokens_per_row: float
    rows: float | None
    error: float | None

    @property
    def suggestion(self) -> int | None:
        """The power of two next to it."""
        return None if self.rows is None else 2 ** max(0, round(math.log2(max(self.rows, 1.0))))


def estimate(samples: list[Sample], micro: int) -> Estimate:
    """The ratio of the means, and its standard error by leaving out one step after the other."""
    traces, signals = [s.trace for s in samples], [s.signal for s in samples]
    per_row = sum(sum(s.tokens) for s in samples) / sum(micro * len(s.tokens) for s in samples)
    trace, signal, count = fmean(traces), fmean(signals), len(samples)
    without = [((count * signal - s) / (count - 1), (count * trace - t) / (count - 1)) for s, t in zip(signals, traces, strict=True)]
    if signal <= 0 or any(s <= 0 for s, _ in without):
        return Estimate(signal, trace / per_row, per_row, None, None)
    others = [t / s / per_row for s, t in without]
    error = math.sqrt((count - 1) * fmean((o - fmean(others)) ** 2 for o in others))
    return Estimate(signal, trace / per_row, per_row, max(0.0, trace / signal / per_row), error)


def course(samples: list[Sample], micro: int) -> list[tuple[int, float]]:
    """(step, rows): the estimate from the steps within NEAR of each, since it grows as the loss falls; not where noise alone is seen."""
    windows = {i + 1: samples[max(0, i - NEAR) : i + NEAR + 1] for i in range(len(samples))}
    found = {step: estimate(window, micro) for step, window in windows.items() if len(window) > 1}
    return [(step, about.rows) for step, about in found.items() if about.rows is not None]


class Norms:
    """Hooks in a model: the trained tokens of each pass forward, and squared norms of its gradient and of the sum so far."""

    def __init__(self, model: nn.Module) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        self.handles: list[Any] = [model.register_forward_pre_hook(self._forward, with_kwargs=True)]
        self.handles += [p.register_hook(self._part) for p in trained]
        self.handles += [p.register_post_accumulate_grad_hook(self._whole) for p in trained]
        self.tokens: list[int] = []
        self.parts: list[Tensor] = []
        self.wholes: list[Tensor] = []

    def _forward(self, model: nn.Module, args: Any, inputs: dict[str, Any]) -> None:
        if model.training and torch.is_grad_enabled():
            labels = inputs["labels"]
            self.tokens.append(int((labels[:, 1:] != IGNORE).sum()))
            self.parts.append(torch.zeros((), device=labels.device))
            self.wholes.append(torch.zeros((), device=labels.device))

    def _part(self, gradient: Tensor) -> None:
        self.parts[-1] += gradient.detach().float().square().sum()

    def _whole(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        self.wholes[-1] += parameter.grad.detach().float().square().sum()

    def take(self) -> Sample:
        """What came since the last time. Micro-batches in which nothing is trained have no gradient."""
        kept = [(n, float(part)) for n, part in zip(self.tokens, self.parts, strict=True) if n]
        whole = float(self.wholes[-1]) if self.wholes else 0.0
        self.tokens, self.parts, self.wholes = [], [], []
        return Sample([n for n, _ in kept], [part for _, part in kept], whole)

    def remove(self) -> None:
        """Take the hooks out."""
        while self.handles:
            self.handles.pop().remove()


class Measure(TrainerCallback):
    """Measures each step of a training, and says how large a batch is of use. Raises TuneError (code 3) when it cannot be told."""

    def __init__(self, run: Run, debug: Noise) -> None:
        self.run, self.debug = run, debug
        self.samples: list[Sample] = []
        self.norms: Norms | None = None
        self.passes = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """Watch."""
        self.norms = Norms(model)

    def close(self) -> None:
        """Leave the model as it was."""
        if self.norms:
            self.norms.remove()

    def on_substep_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Each micro-batch but the last."""
        self.passes += 1

    def on_pre_optimizer_step(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """After the last. An epoch's last batch may be of one micro-batch alone, and says nothing."""
        assert self.norms is not None
        if len(self.norms.tokens) != self.passes + 1:
            fix = "lower `hardware.micro_batch_size`, or leave it out"
            raise TuneError("memory ran out, and a micro-batch was passed in parts", f"step {state.global_step + 1}", fix, code=ENVIRONMENT)
        self.passes = 0
        sample = self.norms.take()
        if len(sample.tokens) > 1 and math.isfinite(sample.whole + sum(sample.parts)):
            self.samples.append(sample)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Enough."""
        control.should_training_stop = control.should_training_stop or state.global_step >= self.debug.steps

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write and tell."""
        if len(self.samples) < 2:
            what = f"of {state.global_step} steps {len(self.samples)} had more than one micro-batch, and two are needed"
            raise TuneError(what, "debug", "raise `debug.steps`, or take more rows", code=GATE)
        micro, found = args.per_device_train_batch_size, estimate(self.samples, args.per_device_train_batch_size)
        facts: dict[str, Any] = {
            "noise_scale": found.rows,
            "standard_error": found.error,
            "suggestion": found.suggestion,
            "signal": found.signal,
        }
        facts |= {"trace": found.trace, "tokens_per_row": found.tokens_per_row, "micro_batch": micro}
        facts |= {"batch": micro * args.gradient_accumulation_steps, "steps": [vars(s) for s in self.samples]}
        facts["course"] = course(self.samples, micro)
        last = dict(facts["course"]).get(len(self.samples))
        end = "noise alone" if last is None else f"{last:.3g}"
        write_json(self.run.folder / "noise.json", facts)
        if found.rows is None:
            fix = "raise `debug.steps` or `trainer.batch_size`; a batch far larger than this one is of use"
            raise TuneError(f"the gradient is lost in its noise over {len(self.samples)} steps", "debug", fix, code=GATE)
        told = f"gradient noise scale: {found.rows:.3g} rows (± {found.error:.2g}), {end} around the last step"
        self.run.tell(f"{told}: trainer.batch_size={found.suggestion} makes good use of each row and of each step")
