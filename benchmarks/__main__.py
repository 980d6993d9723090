"""`python -m benchmarks [PART …] [--repeats N]`: what README and docs claim, measured here; `--help` names the parts."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks import checkpoint
from benchmarks.memory import report as memory
from benchmarks.runner import Job, compare, report, run
from benchmarks.stream import report as stream
from benchmarks.train_step import equivalence
from benchmarks.train_step import report as train_steps

BIN = Path(sys.executable).parent
TUNE, TRL = str(BIN / "tune"), str(BIN / "trl")
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "outputs" / "benchmarks"


def startup(repeats: int) -> None:
    """Commands that only answer, against `trl sft --help`; and a finished run, called again."""
    jobs = {
        "tune --help": Job(argv=[TUNE, "--help"]),
        "tune recipe=quickstart dry_run=true": Job(argv=[TUNE, "recipe=quickstart", "dry_run=true"]),
        "tune ls recipes": Job(argv=[TUNE, "ls", "recipes"]),
        "trl --help": Job(argv=[TRL, "--help"]),
        "trl sft --help": Job(argv=[TRL, "sft", "--help"]),
    }
    if (ROOT / "outputs" / "quickstart").is_dir():
        jobs["tune recipe=quickstart (finished)"] = Job(argv=[TUNE, "recipe=quickstart"], cwd=ROOT)
    report("startup", compare(jobs, repeats=repeats), folder=RESULTS)


def first_step(repeats: int) -> None:
    """From the command to the first optimizer step, the same model, rows and batch; each repeat in a fresh output folder."""
    model = json.loads(subprocess_output([sys.executable, "-c", _MODEL]))["path"]
    with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
        rows = ROOT / "tuner" / "conf" / "data" / "tickets" / "train.jsonl"
        settings = [
            "trainer.max_steps=2",
            "trainer.logging_steps=1",
            "trainer.batch_size=16",
            "adapter.r=16",
            "eval=none",
            "hub=none",
            "task.max_length=512",
        ]
        tune = [sys.executable, "-m", "benchmarks.fresh", folder, TUNE, "recipe=quickstart", *settings]
        trl = [
            TRL,
            "sft",
            "--model_name_or_path",
            model,
            "--dataset_name",
            str(rows.parent),
            "--use_peft",
            "--lora_r",
            "16",
            "--lora_alpha",
            "32",
        ]
        trl += [
            "--lora_target_modules",
            "all-linear",
            "--use_cpu",
            "--max_steps",
            "2",
            "--per_device_train_batch_size",
            "16",
            "--max_length",
            "512",
        ]
        trl += [
            "--logging_steps",
            "1",
            "--output_dir",
            f"{folder}/trl",
            "--report_to",
            "none",
            "--save_strategy",
            "no",
            "--disable_tqdm",
            "true",
        ]
        marks = {"import": "libraries loaded", "prepare": "prepare done", "load": "parameters ("}
        jobs = {
            "tune recipe=quickstart": Job(argv=tune, until="step 1/", marks=marks, cwd=ROOT),
            "trl sft": Job(argv=trl, until="'loss':", env={"HF_HUB_OFFLINE": "1"}),
        }
        report("first step", compare(jobs, repeats=repeats), folder=RESULTS)


_MODEL = """
import json
from tuner.model.sources import fetch
from tuner.schema.documents import find_option
from tuner.schema.model import Model
from tuner.schema.recipe import from_section
model = from_section(Model, find_option("model", "smollm2-135m", where="").data)
print(json.dumps({"path": str(fetch(model, progress=lambda text: None))}))
"""


def subprocess_output(argv: list[str]) -> str:
    """The last line that a command prints."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip().splitlines()[-1]


def quickstart(repeats: int) -> None:
    """The whole quickstart job, from nothing prepared, by stage."""
    with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
        for index in range(repeats):
            target = f"{folder}/{index}"
            job = Job(argv=[TUNE, "recipe=quickstart", f"output_dir={target}"], marks={"import": "libraries loaded"})
            sample = run(job)
            found = next(Path(target).glob("quickstart/*/metrics.json"))
            metrics = json.loads(found.read_text())
            markers = [*Path(target).glob(".cache/*/stages/*.json"), *found.parent.glob("stages/*.json")]
            stages = {m.name.split("-")[0]: json.loads(m.read_text())["seconds"] for m in markers}
            print(
                f"quickstart: {sample.wall_s:.0f} s wall, {sample.cpu_s:.0f} s CPU, {sample.peak_rss_bytes / 1e9:.1f} GB; stages {stages}"
            )
            for side in ("base", "tuned"):
                print(f"  {side:<6}" + "  ".join(f"{name} {value:.3f}" for name, value in metrics[side].items()))
            RESULTS.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"wall_s": sample.wall_s, "cpu_s": sample.cpu_s, "stages_s": stages, "metrics": metrics}, indent=1)
            (RESULTS / "quickstart.json").write_text(text + "\n")


def data_prep(repeats: int) -> None:
    """The same rows prepared (rendered, tokenized, masked, packed) by us (either tokenizer) and by TRL: ids and masks must be equal."""
    model = json.loads(subprocess_output([sys.executable, "-c", _MODEL]))["path"]
    talks = [json.loads(line)["messages"] for line in (ROOT / "tuner/conf/data/tickets/train.jsonl").read_text().splitlines()]
    single = [[m[0], {"role": "user", "content": f"{m[1]['content']} ({i})"}, m[2]] for i in range(50) for m in talks]
    several = [
        [m[0], *(x for n in range(6) for x in talks[(i + k * 41 + 37 * n) % len(talks)][1:])]
        for k in range(24)
        for i, m in enumerate(talks)
    ]
    found = {}
    with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
        for name, rows in {"single turn": single, "six turns": several}.items():
            path = Path(folder) / "rows.jsonl"
            path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in rows))
            samples: dict[str, list[dict[str, float]]] = {"fast": [], "huggingface": [], "trl": []}
            for _ in range(repeats):
                for side, taken in samples.items():
                    argv = [sys.executable, "-m", "benchmarks.prep", side, str(path), model, f"{folder}/{side}.npz"]
                    taken.append(json.loads(subprocess_output(argv)))
            made = {side: np.load(f"{folder}/{side}.npz") for side in samples}
            best: dict[str, dict[str, object]] = {side: dict(min(taken, key=lambda s: s["cpu_s"])) for side, taken in samples.items()}
            for side in ("fast", "huggingface"):
                ratios = {key: round(float(best["trl"][key]) / float(best[side][key]), 2) for key in ("cpu_s", "wall_s")}  # type: ignore[arg-type]
                different = sum(int(not np.array_equal(made[side][key], made["trl"][key])) for key in ("ids", "trained"))
                best[side] |= {"ratio": ratios, "different arrays": different}
            found[name] = best
            print("\n".join([f"{name}:", *(f"  {side:<12} {taken}" for side, taken in best.items())]))
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "data-prep.json").write_text(json.dumps(found, indent=1) + "\n")


def packing(repeats: int) -> None:
    """Best-fit packing of the same rows by us and by `trl.pack_dataset`: seconds, and how full the packs are; and 1 M lengths by us."""
    from datasets import Dataset
    from trl import pack_dataset

    from tuner.data.store import best_fit

    draw = np.random.default_rng(0)
    found: dict[str, dict[str, float]] = {}
    for count in (30_000, 1_000_000):
        lengths = np.clip(draw.lognormal(5, 0.8, count).astype(int), 8, 1024).tolist()
        for _ in range(repeats):
            began = time.perf_counter()
            packs = best_fit(lengths, 1024)
            taken = {"wall_s": time.perf_counter() - began, "fill": sum(lengths) / (len(packs) * 1024)}
            found[f"tune {count}"] = min(taken, found.get(f"tune {count}", taken), key=lambda t: t["wall_s"])
            if count > 100_000:
                continue
            rows = Dataset.from_dict({"input_ids": [[1] * n for n in lengths]})
            began = time.perf_counter()
            packed = pack_dataset(rows, 1024)
            taken = {"wall_s": time.perf_counter() - began, "fill": sum(lengths) / (len(packed) * 1024)}
            found[f"trl {count}"] = min(taken, found.get(f"trl {count}", taken), key=lambda t: t["wall_s"])
    for name, taken in found.items():
        print(f"{name:>16}  {taken['wall_s']:.3f} s  {taken['fill']:.4f} full")
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / "packing.json").write_text(json.dumps(found, indent=1) + "\n")


def train_step(repeats: int) -> None:
    """Tokens per second of training, against `trl sft` and LLaMA-Factory; memory, losses, share of the CPU's own rate."""
    train_steps(repeats, json.loads(subprocess_output([sys.executable, "-c", _MODEL]))["path"], RESULTS)


def equal_steps(repeats: int) -> None:
    """Twenty steps by our path and by the plain one (padded, all logits): losses and gradient norms."""
    equivalence(json.loads(subprocess_output([sys.executable, "-c", _MODEL]))["path"], RESULTS)


def kernels(repeats: int) -> None:
    """Each kernel beside what it stands for."""
    from benchmarks.kernels import report as each

    each(repeats, RESULTS)


def labels(repeats: int) -> None:
    """Rows with labels, against a plain Transformers script."""
    from benchmarks.labels import report as each

    each(repeats, RESULTS)


def main() -> None:
    """Run what is named, or all."""
    parts = {
        "startup": startup,
        "first-step": first_step,
        "quickstart": quickstart,
        "data-prep": data_prep,
        "packing": packing,
        "stream": stream,
        "train-step": train_step,
        "equivalence": equal_steps,
        "labels": labels,
        "kernels": kernels,
        "checkpoint": checkpoint.report,
        "memory": memory,
    }
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*parts, []], default=[])
    parser.add_argument("--repeats", type=int, default=3)
    chosen = parser.parse_args()
    for name in chosen.parts or parts:
        parts[name](chosen.repeats)


if __name__ == "__main__":
    main()
