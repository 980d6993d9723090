"""The same rows trained by us, by `trl sft` and by LLaMA-Factory: tokens per second, losses, memory, and our share of the CPU's rate.

`scripts/bench train-step`. SmolLM2-135M, LoRA r=16 on every linear map, batches of 8 rows of at most 512 tokens, one pass; one turn
(alpaca, where `../shared` is there, else tickets) and three turns. Timed is what each one's trainer says its steps took, so neither
start nor loading counts. LLaMA-Factory is measured when LLAMAFACTORY names its command: it needs packages of other versions, and so a
place of its own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.prep import MARKED

BIN = Path(sys.executable).parent
ROOT = Path(__file__).resolve().parent.parent
ALPACA = ROOT.parent / "shared" / "data" / "alpaca_en" / "train.json"
ROWS_A_STEP, LENGTH, RATE = 8, 512, 2e-4
PARAMETERS = 134_515_008  # of SmolLM2-135M: LoRA passes each forwards and backwards once, 4 operations a parameter and token
Talk = list[dict[str, str]]


@dataclass(kw_only=True)
class Found:
    """What one training took: `seconds` of its steps, the losses it wrote, the highest memory of its process."""

    seconds: float
    losses: list[float]
    peak_rss_bytes: int
    tokens: int = 0


def talks() -> dict[str, list[Talk]]:
    """The two sets, as messages."""
    tickets = [json.loads(line)["messages"] for line in (ROOT / "tuner/conf/data/tickets/train.jsonl").read_text().splitlines()]
    single = tickets
    if ALPACA.is_file():
        rows = json.loads(ALPACA.read_text())
        single = [
            [
                {"role": "user", "content": "\n".join(filter(None, (r["instruction"], r["input"])))},
                {"role": "assistant", "content": r["output"]},
            ]
            for r in rows
        ]
    # Three turns of tickets fit into 512 tokens; the order is fixed, so that each set is the same everywhere.
    several = [
        [tickets[i][0], *(message for n in range(3) for message in tickets[(i + 37 * n) % len(tickets)][1:])] for i in range(len(tickets))
    ]
    return {"one turn": single, "three turns": several}


def execute(argv: list[str], folder: Path, **env: str) -> tuple[str, int]:
    """The output of a command, both streams, and its highest memory in bytes. Raises RuntimeError with the end of it when it fails."""
    with (folder / "output").open("w+") as output:
        process = subprocess.Popen(
            argv, stdout=output, stderr=subprocess.STDOUT, cwd=folder, env=os.environ | {"HF_HUB_OFFLINE": "1"} | env
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}:\n{text[-3000:]}")
    return text, usage.ru_maxrss * 1024


def tune(rows: list[Talk], model: str, folder: Path, *overrides: str) -> Found:
    """`tune recipe=…`, from the recipe to the trained adapter."""
    (folder / "rows.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in rows))
    recipe = {
        "name": "bench",
        "model": {"id": model, "source": "local"},
        "seed": 42,  # the others' default: the same rows in each step
        "data": {"path": "rows.jsonl", "eval_path": "rows.jsonl"},  # none is held out of them
        "task": {"max_length": LENGTH},
        "adapter": {"r": 16, "lora_alpha": 32, "lora_dropout": 0.0},
        "trainer": {"batch_size": ROWS_A_STEP, "learning_rate": RATE, "lr_scheduler_type": "linear", "warmup_ratio": 0.0, "save_steps": 0},
    }
    (folder / "bench.yaml").write_text(yaml.safe_dump({"defaults": [{"eval": "none"}, {"hub": "none"}], **recipe}))
    _, peak = execute([str(BIN / "tune"), "recipe=./bench.yaml", "output_dir=out", *overrides], folder)
    (log,) = (folder / "out").glob("bench/*/train_log.jsonl")
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    return Found(seconds=entries[-1]["time_s"], losses=[e["loss"] for e in entries], peak_rss_bytes=peak, tokens=entries[-1]["tokens"])


def trl(rows: list[Talk], model: str, folder: Path, *flags: str, threads: str = "") -> Found:
    """`trl sft`, with its defaults but for what the job is; typed without more it starts itself by accelerate, with one thread."""
    (folder / "data").mkdir()
    several = any(sum(m["role"] == "assistant" for m in talk) > 1 for talk in rows)
    lines = [{"messages": talk} if several else {"prompt": talk[:-1], "completion": talk[-1:]} for talk in rows]
    (folder / "data" / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "marked.jinja").write_text(MARKED)
    argv = f"sft --model_name_or_path {model} --dataset_name data --use_peft --lora_r 16 --lora_alpha 32 --lora_dropout 0"
    argv += f" --lora_target_modules all-linear --use_cpu --num_train_epochs 1 --per_device_train_batch_size {ROWS_A_STEP}"
    argv += f" --max_length {LENGTH} --learning_rate {RATE} --logging_steps 1 --output_dir out --report_to none --save_strategy no"
    argv += " --disable_tqdm true" + (" --assistant_only_loss --chat_template_path marked.jinja" if several else "")
    text, peak = execute([str(BIN / "trl"), *argv.split(), *flags], folder, **({"OMP_NUM_THREADS": threads} if threads else {}))
    tokens = re.findall(r"'num_tokens': '?([\d.e+]+)", text)
    return Found(seconds=_said(text, "train_runtime")[-1], losses=_said(text, "loss"), peak_rss_bytes=peak, tokens=int(float(tokens[-1])))


def llamafactory(rows: list[Talk], model: str, folder: Path) -> Found:
    """`llamafactory-cli train`, bf16, as its examples set it."""
    data = folder / "data"
    data.mkdir()
    (data / "rows.json").write_text(json.dumps([{"messages": talk} for talk in rows]))
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "system_tag": "system"}
    described = {"rows": {"file_name": "rows.json", "formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}}
    (data / "dataset_info.json").write_text(json.dumps(described))
    recipe: dict[str, Any] = {"model_name_or_path": model, "stage": "sft", "do_train": True, "finetuning_type": "lora", "lora_rank": 16}
    recipe |= {"lora_alpha": 32, "lora_target": "all", "dataset": "rows", "dataset_dir": str(data), "template": "smollm2"}
    recipe |= {"cutoff_len": LENGTH, "output_dir": "out", "per_device_train_batch_size": ROWS_A_STEP, "num_train_epochs": 1}
    recipe |= {"learning_rate": RATE, "bf16": True, "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "report_to": "none"}
    (folder / "train.yaml").write_text(yaml.safe_dump(recipe))
    text, peak = execute([os.environ["LLAMAFACTORY"], "train", "train.yaml"], folder, DISABLE_VERSION_CHECK="1")
    return Found(seconds=_said(text, "train_runtime")[-1], losses=_said(text, "loss"), peak_rss_bytes=peak)


def _said(text: str, name: str) -> list[float]:
    return [float(value) for value in re.findall(rf"'{name}': '?([\d.e+-]+)", text)]


SIDES: dict[str, Callable[..., Found]] = {
    "tune": tune,
    "trl sft, as typed": lambda *a: trl(*a, threads="1"),
    "trl, best flags": lambda *a: trl(*a, "--dtype", "bfloat16", "--gradient_checkpointing", "false", "--packing"),
    "trl, no checkpointing": lambda *a: trl(*a, "--dtype", "bfloat16", "--gradient_checkpointing", "false"),
    "trl sft": trl,
}


def gemm_flops() -> float:
    """Operations per second of bf16 matrix products here, in a process of its own: the best of ten of 2048 cubed."""
    code = "import torch, time; a, b = (torch.randn(2048, 2048, dtype=torch.bfloat16) for _ in 'ab'); a @ b; best = 9e9\n"
    code += "for _ in range(10):\n t = time.perf_counter(); a @ b; best = min(best, time.perf_counter() - t)\nprint(2 * 2048**3 / best)"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def measure(name: str, rows: list[Talk], model: str, *, repeats: int, only: str) -> dict[str, Any]:
    """Each side in turn, `repeats` times; the best of each is compared."""
    named = SIDES | ({"llamafactory": llamafactory} if "LLAMAFACTORY" in os.environ else {})
    sides = {side: job for side, job in named.items() if re.search(only, side)}
    taken: dict[str, list[Found]] = {side: [] for side in sides}
    rates = []
    for _ in range(repeats):
        for side, job in sides.items():
            rates.append(gemm_flops())
            with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
                taken[side].append(job(rows, model, Path(folder)))
            print(f"{name}, {side}: {taken[side][-1].seconds:.1f} s", flush=True)
    tokens = taken["tune"][0].tokens
    found: dict[str, Any] = {"rows": len(rows), "tokens": tokens, "gemm_gflops": round(max(rates) / 1e9)}
    ours = min(t.seconds for t in taken["tune"])
    for side, samples in taken.items():
        best = min(samples, key=lambda s: s.seconds)
        found[side] = {
            "tokens_per_s": round((best.tokens or tokens) / best.seconds, 1),
            "times_slower": round(best.seconds / ours, 2),
            "mfu": round(4 * PARAMETERS * tokens / best.seconds / max(rates), 3),
            "peak_rss_gb": round(max(s.peak_rss_bytes for s in samples) / 1e9, 2),
            "its_tokens": best.tokens,
            "losses": [round(loss, 3) for loss in best.losses],
            "all_seconds": [round(s.seconds, 1) for s in samples],
        }
        print(f"{name:<12} {side:<22} {found[side]}", flush=True)
    return found


def report(repeats: int, model: str, results: Path) -> None:
    """Both sets; STEPS sets how many batches (8), ONLY and SETS choose sides and sets by regular expressions."""
    steps, only, sets = int(os.environ.get("STEPS", "8")), os.environ.get("ONLY", ""), os.environ.get("SETS", "")
    found = {}
    for name, rows in ((name, rows) for name, rows in talks().items() if re.search(sets, name)):
        found[name] = measure(name, rows[: steps * ROWS_A_STEP], model, repeats=repeats, only=only)
        results.mkdir(parents=True, exist_ok=True)
        (results / "train-step.json").write_text(json.dumps(found, indent=1) + "\n")


def equivalence(model: str, results: Path) -> None:
    """The greatest differences over 20 steps between our path and `trainer.padding_free=never`, in fp32 and under bf16."""
    rows = next(iter(talks().values()))[:40]  # two a step
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        logs = []
        for padding in ("auto", "never"):
            dtype = "float32" if precision == "fp32" else "bfloat16"
            with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
                ours = ("trainer.batch_size=2", f"trainer.padding_free={padding}", f"trainer.precision={precision}", f"model.dtype={dtype}")
                tune(rows, model, Path(folder), *ours)
                (log,) = (Path(folder) / "out").glob("bench/*/train_log.jsonl")
                logs.append([json.loads(line) for line in log.read_text().splitlines()])
        loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(*logs, strict=True))
        norm = max(abs(a["grad_norm"] / b["grad_norm"] - 1) for a, b in zip(*logs, strict=True))
        found[precision] = {"steps": len(logs[0]), "greatest_loss_difference": loss, "greatest_gradient_norm_difference": norm}
        print(f"{precision}: {found[precision]}", flush=True)
    results.mkdir(parents=True, exist_ok=True)
    (results / "equivalence.json").write_text(json.dumps(found, indent=1) + "\n")
