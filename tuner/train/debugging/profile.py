"""`debug=profile`: a few steps under PyTorch's profiler, its trace, and the share of each kind of work."""

from __future__ import annotations

import gzip
import shutil
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.errors import GATE, TuneError
from tuner.runs import write_json
from tuner.schema.debug import WARMUP, Profile

# Kinds of work by words in an operation's name; the first that fits. What fits none is "other".
KINDS = {
    "attention": ("scaled_dot_product", "flash_attention", "attention", "fmha"),
    "matrix products": ("::mm", "addmm", "bmm", "gemm", "linear", "matmul"),
    "optimizer": ("optimizer", "foreach", "adam"),
    "copies and casts": ("copy", "to_copy", "::cat", "contiguous", "memcpy"),
    "elementwise": ("mul", "add", "sub", "div", "exp", "silu", "pow", "mean", "sum", "rsqrt", "neg", "fill", "norm", "amax"),
}
TOP = 10


def watch(run: Run, debug: Profile) -> TrainerCallback:
    """The recorder."""
    return Recorder(run, debug)


class Recorder(TrainerCallback):
    """Two steps to warm up, then `debug.steps` that are recorded; the trace is compressed, the table told."""

    def __init__(self, run: Run, debug: Profile) -> None:
        self.run, self.debug = run, debug
        self.tokens, self.running = 0, False
        kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if run.device.type == "cuda" else [])
        self.profiler = profile(
            activities=kinds, schedule=schedule(wait=WARMUP - 1, warmup=1, active=debug.steps, repeat=1), acc_events=True
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Start."""
        self.profiler.start()
        self.running = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """The next step."""
        if state.global_step in (WARMUP, WARMUP + self.debug.steps):
            self.tokens = state.num_input_tokens_seen - self.tokens  # at the second, those of the steps between
        self.profiler.step()

    def close(self) -> None:
        """Stop: Python would crash at its end with a profiler that runs."""
        if self.running:
            self.profiler.stop()
        self.running = False

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write and tell. Raises TuneError (code 3) where the training ended before all was recorded."""
        self.close()
        if state.global_step < WARMUP + self.debug.steps:
            what = f"{self.debug.steps} steps are recorded after {WARMUP}, and the training ended after {state.global_step}"
            raise TuneError(what, "debug.steps", "lower it", code=GATE)
        folder = self.run.folder / "profile"
        folder.mkdir(exist_ok=True)
        plain = folder / "trace.json"
        self.profiler.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(f"{plain}.gz", "wb") as target:
            shutil.copyfileobj(source, target)
        plain.unlink()
        found = summary(self.profiler, cuda=self.run.device.type == "cuda") | {
            "steps": self.debug.steps,
            "tokens": self.tokens,
        }
        if self.run.device.type == "cuda":
            found["peak_bytes"] = torch.cuda.max_memory_allocated()
        write_json(folder / "summary.json", found)
        self.run.tell(f"{self.debug.steps} steps, {found['tokens']} tokens, {found['seconds']:.2f} s of work:")
        for name, share in found["kinds"].items():
            self.run.tell(f"  {share:6.1%}  {name}")
        for entry in found["operations"]:
            self.run.tell(f"  {entry['seconds']:7.3f} s  {entry['calls']:>6} x  {entry['name']}")
        self.run.tell(f"trace: {plain}.gz (open it in https://ui.perfetto.dev)")


def summary(profiler: Any, *, cuda: bool) -> dict[str, Any]:
    """Seconds of work by kind and by operation: each operation's own time, without what it calls."""
    entries = [(e.key, (e.self_device_time_total if cuda else e.self_cpu_time_total) / 1e6, e.count) for e in profiler.key_averages()]
    entries = [e for e in entries if e[1] > 0 and not e[0].startswith("ProfilerStep")]
    total = sum(seconds for _, seconds, _ in entries) or 1.0
    kinds = dict.fromkeys([*KINDS, "other"], 0.0)
    for name, seconds, _ in entries:
        lower = name.lower()
        kinds[next((kind for kind, words in KINDS.items() if any(w in lower for w in words)), "other")] += seconds / total
    top = sorted(entries, key=lambda e: -e[1])[:TOP]
    operations = [{"name": name, "seconds": round(seconds, 4), "calls": calls} for name, seconds, calls in top]
    return {"seconds": total, "kinds": dict(sorted(kinds.items(), key=lambda k: -k[1])), "operations": operations}
