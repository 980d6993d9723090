"""Peak GPU memory beside the plan, no network: `python -m benchmarks.memory_cuda > memory_cuda.jsonl` (a table goes to stderr).

Random weights from configurations (135M-, 1B- and 8B-shaped), two optimizer steps each in this process: our padding-free loss, PEFT's
LoRA, bf16 autocast. Needs torch, transformers and peft; where the recipe's schema cannot be imported, predictions are left out, and told.
"""

from __future__ import annotations

import gc
import json
import sys
from types import SimpleNamespace
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from transformers import LlamaConfig, LlamaForCausalLM

from tuner.model import packed

SMALL = {"hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536}
ONE = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192}
EIGHT = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 14336}
SHAPES: dict[str, dict[str, Any]] = {
    "135M": SMALL | {"vocab_size": 49152, "tie_word_embeddings": True},
    "1B": ONE | {"vocab_size": 128256, "tie_word_embeddings": True},
    "8B": EIGHT | {"vocab_size": 128256, "tie_word_embeddings": False},
}
# shape, adapter, rows, tokens a row, recomputation
SETTINGS = [
    ("135M", "lora", 8, 1024, False),
    ("135M", "full", 8, 1024, False),
    ("1B", "lora", 1, 1024, False),
    ("1B", "lora", 8, 1024, False),
    ("1B", "lora", 8, 1024, True),
    ("1B", "full", 4, 1024, False),
    ("8B", "lora", 4, 1024, False),
    ("8B", "lora", 4, 1024, True),
]


def predicted(shape: dict[str, Any], adapter: str, rows: int, length: int, recompute: bool) -> int | None:
    """What the plan says, or None where the schema's packages are missing here."""
    try:
        from tuner.memory import Load, need
        from tuner.schema.adapter import Full, Lora
        from tuner.schema.hardware import Hardware
        from tuner.schema.model import Dtype
        from tuner.schema.trainer import Trainer
    except ImportError as error:
        sys.stderr.write(f"no predictions: {error}\n")
        return None
    recipe: Any = SimpleNamespace(
        adapter=Full() if adapter == "full" else Lora(r=16),
        model=SimpleNamespace(dtype=Dtype.bfloat16),
        trainer=Trainer(activation_checkpointing=recompute),
        hardware=Hardware(async_save=False),
    )
    found = need(recipe, shape, Load(rows=rows, length=length, cpu=False))
    return found.total if found else None


def measured(shape: dict[str, Any], adapter: str, rows: int, length: int, recompute: bool) -> dict[str, int]:
    """Peak bytes of tensors and of the allocator over two steps."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    dtype = torch.float32 if adapter == "full" else torch.bfloat16
    config = LlamaConfig(**shape, max_position_embeddings=4096)
    with torch.device("cuda"):
        model: Any = LlamaForCausalLM._from_config(config, dtype=dtype, attn_implementation=packed.ATTENTION)
    if adapter == "lora":
        model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
        for parameter in model.parameters():
            parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    ids = [[(n * 7 + row) % 1000 + 3 for n in range(length)] for row in range(rows)]
    batch = packed.flatten([{"input_ids": row, "labels": row} for row in ids])
    batch = {name: value.to("cuda") if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
    for _ in range(2):
        casts = disable_input_dtype_casting(model, active=adapter == "lora")
        with torch.autocast("cuda", torch.bfloat16), casts:
            loss = packed.forward_loss(model, batch, rows * (length - 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return {"measured": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}


def main() -> None:
    """Each setting in turn, the smallest first; one that runs out of memory is told and passed."""
    packed.register()
    card = torch.cuda.get_device_name()
    sys.stderr.write(f"{card}, torch {torch.__version__}\n{'shape':>6}{'adapter':>8}{'rows':>6}{'tokens':>8}{'recompute':>10}")
    sys.stderr.write(f"{'plan GB':>9}{'peak GB':>9}{'reserved':>9}{'ratio':>7}\n")
    for setting in SETTINGS:
        name, *rest = setting
        plan = predicted(SHAPES[name], *setting[1:])
        try:
            found: dict[str, Any] = dict(measured(SHAPES[name], *setting[1:]))
        except torch.OutOfMemoryError:
            found = {"measured": None, "reserved": None}
        sys.stdout.write(json.dumps({"device": card, "setting": setting, "predicted": plan} | found) + "\n")
        sys.stdout.flush()
        sys.stderr.write("{:>6}{:>8}{:>6}{:>8}{!s:>10}".format(name, *rest))
        if plan is None or found["measured"] is None:
            sys.stderr.write(f"  plan {plan}, measured {found['measured']} bytes (None: out of memory, or not known)\n")
            continue
        figures = (plan / 1e9, found["measured"] / 1e9, found["reserved"] / 1e9, plan / found["measured"])
        sys.stderr.write("{:>9.2f}{:>9.2f}{:>9.2f}{:>7.2f}\n".format(*figures))


if __name__ == "__main__":
    main()
