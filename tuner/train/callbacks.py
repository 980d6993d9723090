"""What happens around a training step: the log, the step line, stopping on signals, saving at the best step."""

from __future__ import annotations

import json
import math
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.errors import Stopped
from tuner.runs import write_text
from tuner.train.together import either

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
NOTED = ("reward", "answer_tokens", "alike")  # of sampled answers: means, and the share of prompts whose answers were worth the same
Report = Callable[[dict[str, float], int, float], None]


class Log(TrainerCallback):
    """Appends each log entry to `train_log.jsonl`, with tokens per second, and tells `report` (entry, total steps, seconds left).

    `before` holds the seconds that earlier sessions of this training took; `time_s` counts them too.
    """

    def __init__(self, path: Path, report: Report = lambda entry, steps, left: None) -> None:
        self.path, self.report = path, report
        self.before = 0.0
        self.began = self.last = time.perf_counter()
        self.first_step: int | None = None
        self.tokens_before = 0

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Drop entries of steps that were lost with a kill: they are trained, and logged, again."""
        self.began = self.last = time.perf_counter()
        self.first_step, self.tokens_before = state.global_step, state.num_input_tokens_seen
        if self.path.is_file():
            kept = [line for line in self.path.read_text(encoding="utf-8").splitlines() if _step(line) <= state.global_step]
            write_text(self.path, "".join(f"{line}\n" for line in kept))
            self.before = max((json.loads(line).get("time_s", 0.0) for line in kept), default=0.0)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """One line a logged step, one a held-out measurement."""
        logs = logs or {}
        if "loss" in logs:
            now = time.perf_counter()
            tokens = state.num_input_tokens_seen
            epoch = {} if args.ignore_data_skip else {"epoch": round(state.epoch or 0.0, 4)}  # a stream's has no length
            entry = {"step": state.global_step, **epoch} | {k: logs[k] for k in ("loss", *NOTED, "learning_rate", "grad_norm") if k in logs}
            entry |= {
                "tokens": tokens,
                "tokens_per_s": round((tokens - self.tokens_before) / (now - self.last), 1),
                "time_s": round(self.before + now - self.began, 3),
            }
            done = state.global_step - (self.first_step or 0)
            left = (now - self.began) / done * (state.max_steps - state.global_step) if done else math.nan
            self.last, self.tokens_before = now, tokens
        elif "eval_loss" in logs:
            entry, left = {"step": state.global_step, "eval_loss": logs["eval_loss"]}, math.nan
        else:
            return
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry) + "\n")
        self.report(entry, state.max_steps, left)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return math.inf


class SaveAtBest(TrainerCallback):
    """Saves at each held-out measurement, so that the best one can be kept; stops after `patience` without improvement."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Transformers decides on the best only after this call, so the history is read."""
        control.should_save = True
        if out_of_patience(state.log_history, self.patience):
            control.should_training_stop = True


def out_of_patience(history: list[dict[str, float]], patience: int | None) -> bool:
    """Whether the last `patience` held-out measurements brought no improvement."""
    losses = [entry["eval_loss"] for entry in history if "eval_loss" in entry]
    return patience is not None and bool(losses) and len(losses) > patience + losses.index(min(losses))


class Interrupted(Stopped):
    """A signal stopped training, after a checkpoint where one can be written."""


class Interrupt(TrainerCallback):
    """On SIGINT, SIGTERM, SIGUSR1 or SIGHUP: finish the step, save, stop. `stops` says afterwards that it was so, here or elsewhere."""

    def __init__(self, tell: Callable[[str], None], *, saves: bool = True) -> None:
        self.tell, self.saves, self.stops = tell, saves, False
        self.signal_number: int | None = None
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._received) for number in SIGNALS}

    def _received(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is None:
            self.signal_number = number
            saved = "a checkpoint will be saved" if self.saves else "nothing is saved of it"
            self.tell(f"stopping after this step; {saved} (Ctrl-C once more: stop at once)")
        elif number == signal.SIGINT:  # a cluster sends SIGTERM after its SIGUSR1: that one changes nothing
            raise KeyboardInterrupt

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Between two steps is where a checkpoint is exact."""
        self.stops = either(self.signal_number is not None)
        if self.stops and self.saves:
            control.should_save = control.should_training_stop = True
        elif self.stops:
            self.tell(f"stopped at step {state.global_step}; the same command begins anew")
            raise Interrupted(self.signal_number or signal.SIGTERM)

    def release(self) -> None:
        """Give the signals back."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
