"""The same labelled rows classified by us and by a plain Transformers script: seconds of the steps, and accuracy on the same held-out rows.

`scripts/bench labels`. MiniLM (22 M parameters), LoRA r=16 on every linear map, batches of 32 rows, one pass in fp32; SST-2 where
`../shared` is there, else the tickets' intents. The script pads each batch to its longest row (as DataCollatorWithPadding does), and once
every row to 128 tokens (as Transformers' own example, run_glue.py, does by default). Timed is what each one's trainer says its steps took.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tuner.model.sources import fetch
from tuner.schema.documents import find_option
from tuner.schema.model import Model
from tuner.schema.recipe import from_section

ROOT = Path(__file__).resolve().parent.parent
SST2 = ROOT.parent / "shared" / "data" / "sst2"
ROWS, BATCH, RATE = 2000, 32, 1e-3
PLAIN = """
import json, sys, torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

model, rows, out, padding = sys.argv[1:]
found = json.load(open(rows))
tokenizer = AutoTokenizer.from_pretrained(model)
whole = padding == "max_length"
cut = {"truncation": True, "max_length": 128 if whole else 256, "padding": "max_length" if whole else False}

def coded(part):
    return Dataset.from_list(part).map(lambda b: tokenizer(b["text"], **cut), batched=True, remove_columns=["text"])

def accuracy(predicted):
    return {"accuracy": float((predicted.predictions.argmax(1) == predicted.label_ids).mean())}

torch.manual_seed(0)
base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=len(found["labels"]), dtype=torch.float32)
net = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"))
args = TrainingArguments(
    output_dir=out, per_device_train_batch_size=BATCH, per_device_eval_batch_size=BATCH, num_train_epochs=1, learning_rate=RATE,
    lr_scheduler_type="cosine", warmup_steps=2, logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, seed=0, disable_tqdm=True,
)
sets = {name: coded(part) for name, part in found["rows"].items()}
options = {"data_collator": DataCollatorWithPadding(tokenizer), "compute_metrics": accuracy}
trainer = Trainer(net, args, train_dataset=sets["train"], eval_dataset=sets["dev"], **options)
took = trainer.train().metrics["train_runtime"]
print("FOUND", json.dumps({"seconds": took, "accuracy": trainer.evaluate()["eval_accuracy"]}))
"""


def rows() -> dict[str, Any]:
    """`{"labels": […], "rows": {"train": [{"text", "label"}], "dev": …}}`."""
    if SST2.is_dir():
        read = {
            name: [line.rsplit("\t", 1) for line in (SST2 / f"{name}.tsv").read_text("utf-8").splitlines()] for name in ("train", "dev")
        }
        cut = {"train": read["train"][:ROWS], "dev": read["dev"]}
        return {"labels": ["negative", "positive"], "rows": {k: [{"text": t, "label": int(n)} for t, n in v] for k, v in cut.items()}}
    folder = ROOT / "tuner/conf/data/tickets"
    found = {}
    for name, file in (("train", "train.jsonl"), ("dev", "eval.jsonl")):
        talks = [json.loads(line)["messages"] for line in (folder / file).read_text("utf-8").splitlines()]
        found[name] = [(talk[-2]["content"], json.loads(talk[-1]["content"])["intent"]) for talk in talks]
    labels = sorted({intent for _, intent in found["train"]})
    return {"labels": labels, "rows": {k: [{"text": t, "label": labels.index(n)} for t, n in v] for k, v in found.items()}}


def ours(found: dict[str, Any], folder: Path) -> dict[str, float]:
    """`tune recipe=…`."""
    for name, part in found["rows"].items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")
    recipe = {
        "defaults": [{"task": "classify"}, {"model": "minilm-l6"}, {"hub": "none"}],
        "task": {"labels": found["labels"]},
        "model": {"dtype": "float32"},
        "data": {"path": "train.jsonl", "eval_path": "dev.jsonl"},
        "adapter": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0},
        "trainer": {"batch_size": BATCH, "learning_rate": RATE, "precision": "fp32", "save_steps": 0},
    }
    (folder / "bench.yaml").write_text("# bench — labels\n" + yaml.safe_dump(recipe), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "tuner", f"recipe={folder / 'bench.yaml'}"], cwd=folder, check=True, capture_output=True)
    (run,) = (folder / "outputs" / "bench").iterdir()
    log = [json.loads(line) for line in (run / "train_log.jsonl").read_text().splitlines()]
    (metrics,) = run.glob("eval/*/metrics.json")
    return {"seconds": log[-1]["time_s"], "accuracy": json.loads(metrics.read_text())["tuned"]["accuracy"]}


def plain(found: dict[str, Any], folder: Path, model: str, padding: str) -> dict[str, float]:
    """The script."""
    (folder / "rows.json").write_text(json.dumps(found), encoding="utf-8")
    code = PLAIN.replace("BATCH", str(BATCH)).replace("RATE", str(RATE))
    argv = [sys.executable, "-c", code, model, str(folder / "rows.json"), str(folder / "out"), padding]
    done = subprocess.run(argv, cwd=folder, check=True, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"})
    line = next(line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    return dict(json.loads(line.removeprefix("FOUND ")))


def report(repeats: int, results: Path) -> None:
    """Run all in turn, print the medians, keep them as JSON."""
    model = str(fetch(from_section(Model, find_option("model", "minilm-l6", where="").data), progress=print))
    found, taken = rows(), dict[str, list[dict[str, float]]]()
    for _ in range(repeats):
        for name in ("tune", "longest", "max_length"):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                one = ours(found, folder) if name == "tune" else plain(found, folder, model, name)
            taken.setdefault(name, []).append(one)
            print(name, one, flush=True)
    medians = {name: statistics.median(one["seconds"] for one in each) for name, each in taken.items()}
    for name, seconds in medians.items():
        accuracy = statistics.median(one["accuracy"] for one in taken[name])
        print(f"{name:12} {seconds:7.1f} s  {seconds / medians['tune']:5.2f} x  accuracy {accuracy:.3f}")
    results.mkdir(parents=True, exist_ok=True)
    (results / "labels.json").write_text(json.dumps(taken, indent=2) + "\n", encoding="utf-8")
