"""A workplace for tests that train: `lab = make_lab(folder)`, then `lab.run("trainer.max_steps=2")` -> a Run in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from tests.tiny import make_model, write_rows
from tuner.checks import RULES
from tuner.commands.run_ import plan_path
from tuner.context import Run
from tuner.plan import Plan, make_plan
from tuner.registry import load
from tuner.schema.compose import compose
from tuner.tasks import Task
from tuner.train.fit import fit

ROOT = Path(__file__).resolve().parent.parent
RECIPE = """\
# small — a test
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
eval: {metrics: [json, exact_match], max_new_tokens: 20}
hardware: {device: cpu}
"""


@cache
def tiny_model() -> Path:
    """The tiny model, made once in a test session."""
    return make_model(Path(mkdtemp(prefix="tiny-")))


@cache
def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Its tokenizer: one token a byte, ChatML."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(tiny_model()))
    return tokenizer


@dataclass
class Lab:
    """A project folder with `recipes/small.yaml` over the tiny model; nothing depends on the current folder."""

    folder: Path
    told: list[str] = field(default_factory=list)

    def plan(self, *overrides: str) -> Plan:
        """The plan of `tune recipe=small …`, made in this process."""
        places = [f"output_dir={self.folder / 'outputs'}"]
        return make_plan(compose(str(self.folder / "recipes" / "small.yaml"), [*places, *overrides], rules=RULES))

    def run(self, *overrides: str, device: str = "cpu") -> Run:
        """The same, ready for stages; what is told to the person is kept in `told`."""
        plan = self.plan(*overrides)
        return Run(plan=plan, recipe=plan.load_recipe(), device=torch.device(device), tell=self.told.append)

    def write_plan(self, *overrides: str) -> Path:
        """The plan as a file, for a worker."""
        plan = self.plan(*overrides)
        path = plan_path(plan)
        plan.write(path)
        return path

    def start(self, plan: Path) -> subprocess.Popen[str]:
        """A worker process on a plan; its output is one stream."""
        argv = [sys.executable, "-m", "tuner.worker", str(plan)]
        return subprocess.Popen(argv, cwd=self.folder, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def tune(self, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`tune …` as a person types it in the project folder."""
        return subprocess.run(
            [sys.executable, "-m", "tuner", *args],
            cwd=self.folder,
            env=environ(**environment),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def environ(**more: str) -> dict[str, str]:
    """The tests' environment for a child process."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | more


def make_lab(folder: Path, *, rows: int = 40, held_out: int = 8, recipe: str = RECIPE) -> Lab:
    """Lay out a project."""
    (folder / "recipes").mkdir(parents=True)
    (folder / "recipes" / "small.yaml").write_text(
        recipe.replace("MODEL", str(tiny_model())).replace("FOLDER", str(folder)), encoding="utf-8"
    )
    write_rows(folder / "train.jsonl", rows)
    write_rows(folder / "eval.jsonl", held_out, start=1000)
    return Lab(folder)


def task_of(run: Run) -> Task:
    """The task module of a run."""
    task: Task = load(run.recipe.task.impl)
    return task


def train(run: Run) -> dict[str, Any]:
    """Prepare and train in this process; what training returned."""
    task = task_of(run)
    prepared = run.stage_folder("prepare")
    task.prepare(run, load("tuner.data.splits").split(run)[0], prepared)
    return fit(run, task, prepared)


TWO = ("hardware=ddp", "hardware.device=cpu", "hardware.num_processes=2", "hardware.micro_batch_size=2", "name=two")


def by_two(lab: Lab, *overrides: str) -> Path:
    """The folder of a training by two processes."""
    path = lab.write_plan(*TWO, "eval.enabled=false", "hub.enabled=false", *overrides)
    worker = lab.start(path)
    output, _ = worker.communicate(timeout=240)
    assert worker.returncode == 0, output
    return path.parent.parent


def by_two_and_by_one(lab: Lab, *overrides: str, keys: tuple[str, ...] = ("loss", "eval_loss")) -> tuple[list[float], list[float]]:
    """What two processes, and what one, logged of the same training."""
    two = by_two(lab, *overrides)
    one = lab.run("name=one", "eval.enabled=false", "hub.enabled=false", *overrides)
    train(one)
    there, here = ([entry[key] for entry in log_of(folder) for key in keys if key in entry] for folder in (two, one.folder))
    assert here
    return there, here


def log_of(folder: Path) -> list[dict[str, Any]]:
    """The entries of `train_log.jsonl`."""
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]


def losses_of(folder: Path) -> list[float]:
    """Training losses, by step."""
    return [e["loss"] for e in log_of(folder) if "loss" in e]


def weights_of(folder: Path, name: str = "adapter_model.safetensors") -> dict[str, torch.Tensor]:
    """Saved weights."""
    return load_file(str(folder / name))
