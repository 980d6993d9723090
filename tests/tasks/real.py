"""Recipes on real models and rows, run as a person does: `ran(folder, recipe)` and `measured(folder, data, task=…)` give base and tuned."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.lab import environ
from tests.tasks.run import tune
from tuner.runs import read_json

HEAD = (
    "# real — a test\ndefaults: [{{task: {task}}}, {{model: {model}}}, {{adapter: {adapter}}}, {{hub: none}}]\nmodel: {{dtype: float32}}\n"
)
FP32 = "trainer: {{precision: fp32, batch_size: {batch}, learning_rate: {rate}, num_train_epochs: {epochs}, logging_steps: 20}}\n"


def measured(
    folder: Path,
    data: str,
    *,
    task: str,
    rate: float,
    epochs: int,
    model: str = "minilm-l6",
    adapter: str = "lora",
    more: str = "",
    batch: int = 32,
) -> dict[str, dict[str, float]]:
    """A recipe of these parts, run; base and tuned."""
    recipe = (
        HEAD.format(task=task, model=model, adapter=adapter)
        + f"data: {{{data}}}\n"
        + FP32.format(rate=rate, epochs=epochs, batch=batch)
        + more
    )
    return ran(folder, recipe)


def ran(folder: Path, recipe: str) -> dict[str, dict[str, float]]:
    """A recipe, run; base and tuned."""
    (folder / "real.yaml").write_text(recipe, encoding="utf-8")
    threads = "1" if "PYTEST_XDIST_WORKER" in os.environ else "2"  # two of two threads each on two cores take five times as long
    done = tune(folder, "recipe=./real.yaml", env=environ(OMP_NUM_THREADS=threads))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "outputs" / "real").iterdir()
    found: dict[str, dict[str, float]] = read_json(run / "metrics.json")
    return found


def write(folder: Path, part: str, rows: list[dict[str, Any]]) -> None:
    """A file of rows: `train.jsonl` of `train`."""
    (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
