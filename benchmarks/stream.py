"""A set larger than memory, streamed: `python -m benchmarks.stream make|walk|resume|peer FOLDER`. Prints JSON with seconds and peak memory.

`make` writes FOLDER/rows.jsonl (GB gigabytes of conversations). `walk` reads all of it once as rank 0 of 100 does: every row read and
shuffled, a hundredth tokenized. `resume` goes on at nine tenths of it, by the journal that `walk` has left. `peer` reads and shuffles the
same rows through `datasets` (a buffer of as many rows), and tokenizes none.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.runner import Job, run

ROWS_TOGETHER = 10_000
WORDS = 4_000


def make(folder: Path, gigabytes: float) -> dict[str, Any]:
    """Conversations of about 2 KB, no two the same."""
    picked = random.Random(0)
    words = ["".join(picked.choices("etaoinshrdlu", k=picked.randint(2, 9))) for _ in range(WORDS)]
    texts = [" ".join(picked.choices(words, k=160)) for _ in range(2_000)]
    size = rows = 0
    with (folder / "rows.jsonl").open("w") as stream:
        while size < gigabytes * 1e9:
            turns = [{"role": "user", "content": f"{rows} {picked.choice(texts)}"}, {"role": "assistant", "content": picked.choice(texts)}]
            size += stream.write(json.dumps({"messages": turns}) + "\n")
            rows += 1
    return {"rows": rows, "bytes": size}


def opened(folder: Path) -> Any:
    """The stream of a recipe over the rows, with SmolLM2's tokenizer."""
    import torch

    from tuner.checks import RULES
    from tuner.context import Run
    from tuner.data.streamed import stream
    from tuner.plan import make_plan
    from tuner.schema.compose import compose
    from tuner.tasks.sft import tokenizer_of

    path = folder / "stream.yaml"
    path.write_text(
        "defaults: [{model: smollm2-135m}]\n"
        f"data: {{path: rows.jsonl, streaming: true, eval_rows: 100, shuffle_rows: {ROWS_TOGETHER}}}\n"
        "trainer: {max_steps: 1000000}\n"
    )
    plan = make_plan(compose(str(path), [f"output_dir={folder}"], rules=RULES))
    run = Run(plan=plan, recipe=plan.load_recipe(), device=torch.device("cpu"), tell=lambda _: None, quiet=True)
    run.folder.mkdir(parents=True, exist_ok=True)
    return stream(run, tokenizer_of(run), run.recipe.task, micro=8)  # type: ignore[arg-type]


def walk(folder: Path, rows: int) -> dict[str, Any]:
    """One epoch; the batches of one rank of a hundred."""
    found = opened(folder)
    began, tokens, batches = time.perf_counter(), 0, (rows - 100) // 800
    for batch in islice(iter(found.at(0, rank=0, world=100)), batches):
        tokens += sum(len(row["input_ids"]) for item in batch for row in item["rows"])
    return {"rows": batches * 800, "tokens": tokens, "wall_s": time.perf_counter() - began}


def resume(folder: Path, rows: int) -> dict[str, Any]:
    """From nine tenths on, to the first batch."""
    found = opened(folder)
    began = time.perf_counter()
    next(iter(found.at(rows * 9 // 10)))
    return {"wall_s": time.perf_counter() - began}


def model(folder: Path, rows: int) -> dict[str, Any]:
    """A small random model with 258 tokens, so that memory is the data's and not the logits'."""
    from tests.tiny import make_model

    make_model(folder / "model")
    return {}


def peer(folder: Path, rows: int) -> dict[str, Any]:
    """The same rows through `datasets`."""
    import datasets

    found = datasets.load_dataset("json", data_files=str(folder / "rows.jsonl"), split="train", streaming=True)
    began = time.perf_counter()
    count = sum(1 for _ in found.shuffle(seed=0, buffer_size=ROWS_TOGETHER))
    return {"rows": count, "wall_s": time.perf_counter() - began}


def report(repeats: int) -> None:
    """A set of 5 GB ($TUNE_BENCH_GB): one pass, a resume in the midst of it, 100 steps of a small model, and `datasets`."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="tune-bench-") as where:

        def part(name: str, number: float) -> dict[str, Any]:
            argv = [sys.executable, "-m", "benchmarks.stream", name, where, str(number)]
            found: dict[str, Any] = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
            results[name] = found
            shown = ", ".join(f"{k} {v / 1e9:.2f} GB" if "bytes" in k else f"{k} {v:,.1f}" for k, v in found.items())
            print(f"{name:>8}  {shown}", flush=True)
            return found

        rows = part("make", float(os.environ.get("TUNE_BENCH_GB", "5")))["rows"]
        for name in ("walk", "resume", "peer", "model"):
            part(name, rows)
        own = [
            f"model.id={where}/model",
            "model.source=local",
            "model.wheel=null",
            f"output_dir={where}",
            "task.max_length=3000",
            "trainer.batch_size=4",
        ]
        argv = [str(Path(sys.executable).parent / "tune"), f"recipe={where}/stream.yaml", "trainer.max_steps=100", "hub=none", *own]
        sample = run(Job(argv=[*argv, "eval.generate=false"]))
        results["train"] = {"wall_s": sample.wall_s, "peak_rss_bytes": sample.peak_rss_bytes}
        print(f"   train  wall_s {sample.wall_s:.1f}, peak_rss_bytes {sample.peak_rss_bytes / 1e9:.2f} GB")
    folder = Path(__file__).resolve().parent.parent / "outputs" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stream.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    name, where, number = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
    parts = {"walk": walk, "resume": resume, "peer": peer, "model": model}
    result = make(where, number) if name == "make" else parts[name](where, int(number))
    print(json.dumps(result | {"peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
