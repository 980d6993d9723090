"""What a checkpoint costs: `python -m benchmarks.checkpoint lora|full never|waiting|beside FOLDER` trains a random model; prints JSON.

`report` compares the three: step times without checkpoints, with training waiting for each, and with them written beside it; the stall is
what the steps around the saves took longer than the median step of the run without them, in such steps, per save.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

STEPS, EVERY, TOKENS = 15, 5, 64


def measure(adapter: str, mode: str, folder: Path) -> dict[str, Any]:
    """Seconds of each step, from its begin to the next one's, saves included."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback, TrainingArguments, set_seed

    from tests.lab import tiny_tokenizer
    from tuner.schema.adapter import Full, Lora
    from tuner.schema.trainer import Optim
    from tuner.train.saving import Checkpoints, Writer
    from tuner.train.trainer import TokenTrainer

    set_seed(0)
    shape = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 16, "num_attention_heads": 9, "num_key_value_heads": 3}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=32_000, dtype="float32", tie_word_embeddings=True, **shape))
    if adapter == "lora":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    begins: list[float] = []

    class Clock(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            begins.append(time.perf_counter())

    row = {"input_ids": list(range(TOKENS)), "labels": list(range(TOKENS))}
    writer = Writer(background=mode == "beside")
    args = TrainingArguments(
        output_dir=str(folder),
        max_steps=STEPS + 1,
        per_device_train_batch_size=1,
        save_strategy="no" if mode == "never" else "steps",
        save_steps=EVERY,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
    )
    rows: Any = [{"rows": [row]}] * (STEPS + 1)
    trainer = TokenTrainer(
        model=model,
        args=args,
        adapter=Lora() if adapter == "lora" else Full(),
        optim=Optim.adamw_torch,
        rows=rows,
        eval_rows=None,
        tokenizer=tiny_tokenizer(),
        padding_free=False,
        callbacks=[Clock(), Checkpoints(2, writer)],
    )
    trainer.writer = writer if mode == "beside" else None
    next(c for c in trainer.callback_handler.callbacks if isinstance(c, Checkpoints)).first = False  # the first is awaited: not measured
    trainer.train()
    writer.wait()
    size = sum(p.stat().st_size for p in folder.glob("checkpoint-*/*")) // max(1, len([*folder.glob("checkpoint-*")]))
    return {
        "steps_s": [b - a for a, b in pairwise(begins)],
        "checkpoint_bytes": size,
        "threads": torch.get_num_threads(),
    }


def report(repeats: int) -> None:
    """Both adapters, three ways, in turn."""
    results: dict[str, Any] = {}
    for adapter in ("lora", "full"):
        taken: dict[str, list[dict[str, Any]]] = {mode: [] for mode in ("never", "waiting", "beside")}
        for _ in range(repeats):
            for mode, found in taken.items():
                with tempfile.TemporaryDirectory(prefix="tune-bench-") as folder:
                    argv = [sys.executable, "-m", "benchmarks.checkpoint", adapter, mode, folder]
                    found.append(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout.splitlines()[-1]))
        step = statistics.median(s for f in taken["never"] for s in f["steps_s"])
        results[adapter] = {"step_s": step, "checkpoint_bytes": taken["beside"][0]["checkpoint_bytes"]}
        for mode, found in taken.items():
            # A save at the end of a step is in the time from its begin to the next's; what runs beside it is in those after.
            saves = STEPS // EVERY - 1  # the last one ends the run
            extra = [(sum(f["steps_s"][EVERY - 1 : EVERY * (saves + 1) - 1]) - step * EVERY * saves) / saves for f in found]
            stalls = [max(f["steps_s"][EVERY * k - 1] for k in range(1, saves + 1)) - step for f in found]
            results[adapter][mode] = {"longest_stall_steps": min(stalls) / step, "cost_of_a_save_steps": statistics.median(extra) / step}
        print(adapter, json.dumps(results[adapter]), flush=True)
    out = Path(__file__).resolve().parent.parent / "outputs" / "benchmarks"
    out.mkdir(parents=True, exist_ok=True)
    (out / "checkpoint.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
