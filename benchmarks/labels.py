"""The same labelled rows learned by us and by a plain script of the libraries: seconds of the steps, and the score of held-out rows.

`scripts/bench labels`. MiniLM (22 M parameters), LoRA r=16 on every linear map, batches of 32 rows, one pass in fp32: classes (SST-2, where
`../shared` is there, else the tickets' intents), and where it is there named entities (NCBI disease) and likeness (STS 2012). A script
(benchmarks/plain/) pads each batch to its longest row, as the libraries' collators do; that of classes once every row to 128 tokens too, as
Transformers' own example, run_glue.py, does by default. Timed is what each one's trainer says its steps took.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tuner.model.sources import fetch
from tuner.schema.documents import find_option
from tuner.schema.model import Model
from tuner.schema.recipe import from_section

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
ROWS, BATCH = 2000, 32
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A task: its rows (`train`, `dev`), names of labels, the learning rate, what is measured, and how the script pads."""

    task: str
    rows: Rows
    labels: list[str]
    rate: float
    measure: str
    paddings: tuple[str, ...] = ("longest",)


def cases() -> list[Case]:
    """What can be measured here."""
    found = [_classes()]
    if SHARED.is_dir():
        tagged = {name: _conll(SHARED / "ncbi_disease" / f"{file}.tsv") for name, file in (("train", "train"), ("dev", "devel"))}
        labels = sorted({tag for row in tagged["train"] for tag in row["tags"]})
        tagged["train"] = tagged["train"][:ROWS]
        found.append(Case(task="tag", rows=tagged, labels=labels, rate=3e-3, measure="f1"))
        alike = {name: _pairs(SHARED / "sts2012" / f"MSRpar.{file}.tsv") for name, file in (("train", "train"), ("dev", "test"))}
        found.append(Case(task="embed", rows=alike, labels=[], rate=3e-4, measure="spearman"))
    return found


def _classes() -> Case:
    measured: dict[str, Any] = {"task": "classify", "rate": 1e-3, "measure": "accuracy", "paddings": ("longest", "max_length")}
    if SHARED.is_dir():
        lines = {n: (SHARED / "sst2" / f"{n}.tsv").read_text("utf-8").splitlines() for n in ("train", "dev")}
        read = {n: [line.rsplit("\t", 1) for line in part][: ROWS if n == "train" else None] for n, part in lines.items()}
        rows = {n: [{"text": text, "label": int(number)} for text, number in part] for n, part in read.items()}
        return Case(rows=rows, labels=["negative", "positive"], **measured)
    folder = ROOT / "tuner/conf/data/tickets"
    found = {}
    for name, file in (("train", "train.jsonl"), ("dev", "eval.jsonl")):
        talks = [json.loads(line)["messages"] for line in (folder / file).read_text("utf-8").splitlines()]
        found[name] = [(talk[-2]["content"], json.loads(talk[-1]["content"])["intent"]) for talk in talks]
    labels = sorted({intent for _, intent in found["train"]})
    return Case(rows={k: [{"text": t, "label": labels.index(n)} for t, n in v] for k, v in found.items()}, labels=labels, **measured)


def _conll(path: Path) -> list[dict[str, Any]]:
    blocks = [[line.split("\t") for line in block.splitlines()] for block in path.read_text("utf-8").split("\n\n") if block.strip()]
    return [{"tokens": [parts[0] for parts in block], "tags": [parts[-1] for parts in block]} for block in blocks]


def _pairs(path: Path) -> list[dict[str, Any]]:
    lines = [line.split("\t") for line in path.read_text("utf-8").splitlines()]
    return [{"sentence1": first, "sentence2": second, "score": float(score)} for score, first, second in lines]


def ours(case: Case, folder: Path) -> dict[str, float]:
    """`tune recipe=…`."""
    for name, part in case.rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    recipe = {
        "defaults": [{"task": case.task}, {"model": "minilm-l6"}, {"hub": "none"}],
        **({"task": {"labels": case.labels}} if case.labels else {}),
        "model": {"dtype": "float32"},
        "data": {"path": "train.jsonl", "eval_path": "dev.jsonl"},
        "adapter": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0},
        "trainer": {"batch_size": BATCH, "learning_rate": case.rate, "precision": "fp32", "save_steps": 0},
    }
    (folder / "bench.yaml").write_text("# bench — labels\n" + yaml.safe_dump(recipe), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tuner", f"recipe={folder / 'bench.yaml'}"], cwd=folder, check=True, capture_output=True)
    (run,) = (folder / "outputs" / "bench").iterdir()
    log = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    (metrics,) = run.glob("eval/*/metrics.json")
    return {"seconds": log[-1]["time_s"], "score": json.loads(metrics.read_text())["tuned"][case.measure]}


def plain(case: Case, folder: Path, model: str, padding: str) -> dict[str, float]:
    """The script."""
    (folder / "rows.json").write_text(json.dumps({"labels": case.labels, "rows": case.rows}), encoding="utf-8")
    argv = [sys.executable, "-m", f"benchmarks.plain.{case.task}", model, str(folder / "rows.json"), str(folder / "out"), padding]
    argv += [str(BATCH), str(case.rate)]
    done = subprocess.run(
        argv, cwd=folder, check=True, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    )
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return dict(json.loads(line.removeprefix("FOUND ")))


def report(repeats: int, results: Path) -> None:
    """Run all in turn, print the medians, keep them as JSON."""
    model = str(fetch(from_section(Model, find_option("model", "minilm-l6", where="").data), progress=print))
    found, taken = cases(), dict[str, list[dict[str, float]]]()
    for _ in range(repeats):
        for case in found:
            for name in ("tune", *case.paddings):
                with tempfile.TemporaryDirectory() as place:
                    one = ours(case, Path(place)) if name == "tune" else plain(case, Path(place), model, name)
                taken.setdefault(f"{case.task} {name}", []).append(one)
                print(case.task, name, one, flush=True)
    medians = {name: statistics.median(one["seconds"] for one in each) for name, each in taken.items()}
    for name, seconds in medians.items():
        score = statistics.median(one["score"] for one in taken[name])
        print(f"{name:20} {seconds:7.1f} s  {seconds / medians[f'{name.split()[0]} tune']:5.2f} x  score {score:.3f}")
    results.mkdir(parents=True, exist_ok=True)
    (results / "labels.json").write_text(json.dumps(taken, indent=2) + "\n", encoding="utf-8")
