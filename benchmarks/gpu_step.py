"""LoRA on a model of 8B parameters' shape, 4 rows of 1,024 tokens a step, by us and by TRL: `python -m benchmarks.gpu_step [SIDE]`.

Needs one GPU of 80 GB and no network: weights are random, of Llama 3.1 8B's shape. Each side runs in a process of its own, and the first
two of its steps do not count. Prints a line of JSON a side: tokens per second, seconds a step, peak memory, share of its own bf16 rate
at 4 operations a parameter and token, and the losses. SHAPE=small is for a try-out.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainingArguments

ROWS, LENGTH, STEPS, WARM = 4, 1024, 10, 2
SHAPES: dict[str, dict[str, Any]] = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8},
    "small": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2},
}


def make_model(attention: str) -> LlamaForCausalLM:
    """Random bf16 weights, made on the device."""
    shape = SHAPES[os.environ.get("SHAPE", "8b")]
    config = LlamaConfig(**shape, vocab_size=128_256, rope_theta=500_000.0, tie_word_embeddings=False, pad_token_id=0)
    config._attn_implementation = attention
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device()):
            return LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(torch.float32)


def device() -> str:
    """Where it runs: the try-out without a GPU too."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def lora() -> LoraConfig:
    """Both sides' adapter."""
    return LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def token_rows() -> list[list[int]]:
    """The same ids every time."""
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(1, 128_000, (LENGTH,), generator=draw).tolist() for _ in range(ROWS * STEPS)]


class Clock(TrainerCallback):
    """Seconds of the steps after the first ones, and what they logged."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0
        self.losses: list[float] = []

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """The device is waited for."""
        if state.global_step in (WARM, STEPS):
            if device() == "cuda":
                torch.cuda.synchronize()
            now = time.perf_counter()
            self.seconds, self.began = now - self.began, now

    def on_log(self, args: TrainingArguments, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Losses."""
        self.losses += [logs["loss"]] if logs and "loss" in logs else []


def settings(folder: str) -> dict[str, Any]:
    """What both sides are told."""
    found: dict[str, Any] = {"output_dir": folder, "per_device_train_batch_size": ROWS, "max_steps": STEPS, "bf16": True, "report_to": []}
    found |= {"logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "learning_rate": 2e-4, "use_cpu": device() == "cpu"}
    return found


def tune(clock: Clock, folder: str, *, checkpointing: bool = False, fused: bool = True) -> None:
    """Our trainer, as `fit` runs it."""
    from tuner.model import packed
    from tuner.model.adapt import fast_lora
    from tuner.model.kernels import fuse
    from tuner.schema.adapter import Lora
    from tuner.schema.trainer import Optim
    from tuner.train.trainer import TokenTrainer

    packed.register()
    model = get_peft_model(make_model(packed.ATTENTION), lora())
    if fused:
        fuse(model)
    assert packed.supported(model) is None
    args = TrainingArguments(**settings(folder), remove_unused_columns=False, gradient_checkpointing=checkpointing)
    rows: Any = [{"rows": [{"input_ids": ids, "labels": ids}]} for ids in token_rows()]
    tokenizer: Any = None
    trainer = TokenTrainer(
        model=model,
        args=args,
        adapter=Lora(),
        optim=Optim.adamw_torch,
        rows=rows,
        eval_rows=None,
        tokenizer=tokenizer,
        padding_free=True,
        callbacks=[clock],
    )
    with fast_lora(model, args):
        trainer.train()


def trl(clock: Clock, folder: str, *, liger: bool = True, checkpointing: bool = False) -> None:
    """TRL's SFTTrainer with PyTorch's Flash Attention (its rows have one length, so nothing is masked), with Liger where asked."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from trl import SFTConfig, SFTTrainer

    vocabulary = {"<pad>": 0, "<eos>": 1}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(vocabulary)), pad_token="<pad>", eos_token="<eos>")
    rows = Dataset.from_dict({"input_ids": token_rows()})
    config = SFTConfig(**settings(folder), max_length=LENGTH, use_liger_kernel=liger, gradient_checkpointing=checkpointing)
    model = make_model("sdpa")
    SFTTrainer(model=model, args=config, train_dataset=rows, peft_config=lora(), processing_class=tokenizer, callbacks=[clock]).train()


SIDES: dict[str, Callable[[Clock, str], None]] = {
    "tune": tune,
    "trl, liger": trl,
    "tune, unfused": lambda clock, folder: tune(clock, folder, fused=False),
    "trl": lambda clock, folder: trl(clock, folder, liger=False),
    "tune, checkpointing": lambda clock, folder: tune(clock, folder, checkpointing=True),
    "trl, liger, checkpointing": lambda clock, folder: trl(clock, folder, checkpointing=True),
}


def gemm_flops() -> float:
    """Operations per second of a bf16 product, the best of ten of 8192 cubed."""
    size = 8192 if device() == "cuda" else 512
    a, b = (torch.randn(size, size, device=device(), dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(12):
        began = time.perf_counter()
        a @ b
        if device() == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def measure(side: str) -> None:
    """One side, in this process."""
    rate, clock = gemm_flops(), Clock()
    with tempfile.TemporaryDirectory() as folder:
        SIDES[side](clock, folder)
    shape = SHAPES[os.environ.get("SHAPE", "8b")]
    a_layer = 2 * shape["hidden_size"] ** 2 * (1 + shape["num_key_value_heads"] / shape["num_attention_heads"])
    a_layer += 3 * shape["hidden_size"] * shape["intermediate_size"]
    parameters = shape["num_hidden_layers"] * a_layer + shape["hidden_size"] * 128_256  # what is multiplied: without the input embedding
    tokens = ROWS * LENGTH * (STEPS - WARM)
    found: dict[str, Any] = {"side": side, "tokens_per_s": round(tokens / clock.seconds, 1)}
    found |= {"ms_a_step": round(1e3 * clock.seconds / (STEPS - WARM), 1), "gemm_tflops": round(rate / 1e12, 1)}
    found |= {"mfu": round(4 * parameters * tokens / clock.seconds / rate, 3), "losses": [round(x, 3) for x in clock.losses]}
    if device() == "cuda":
        found |= {"peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2), "device": torch.cuda.get_device_name()}
    print("RESULT " + json.dumps(found), flush=True)


def main() -> None:
    """All sides, each in its own process; or the one named."""
    if len(sys.argv) > 1:
        measure(sys.argv[1])
        return
    for side in SIDES:
        done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_step", side], capture_output=True, text=True, check=False)
        lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        print("\n".join(lines) or f"{side}: failed\n{(done.stdout + done.stderr)[-1500:]}", flush=True)


if __name__ == "__main__":
    main()
