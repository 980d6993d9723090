"""Each kernel beside what it stands for, on this machine's CPU: `scripts/bench kernels`. Seconds of forward and backward, in turn; medians.

Shapes are SmolLM2-135M's: a loss head over 49,152 tokens of which two thirds are trained, attention over rows of one length (dense: as one
sequence under a mask, which is how a packed batch runs without an attention of its own), a LoRA layer of 576 to 1,536. bf16 throughout.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.helpers import disable_input_dtype_casting
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from tuner.model.kernels import labelled_loss, lean_lora, row_attention

VOCABULARY, WIDTH, INNER = 49_152, 576, 1536
Pair = dict[str, Callable[[], object]]


def bf16(*shape: int, grad: bool = True) -> Tensor:
    """A random tensor."""
    return torch.randn(*shape, dtype=torch.bfloat16).requires_grad_(grad)


def loss_head(tokens: int) -> Pair:
    """All positions through the head and Transformers' loss, or the trained ones alone."""
    hidden = (bf16(tokens, WIDTH) / 10).detach().requires_grad_()  # logits as a model's: wider ones make numbers that a CPU is slow with
    weight = bf16(VOCABULARY, WIDTH, grad=False)
    labels = torch.randint(0, VOCABULARY, (tokens,))
    labels[: tokens // 3] = -100
    kept = (labels != -100).nonzero()[:, 0]

    def plain() -> object:
        logits = (hidden @ weight.T).float()
        return torch.autograd.grad(cross_entropy(logits, labels, reduction="sum") / len(kept), hidden)

    return {"full logits": plain, "ours": lambda: torch.autograd.grad(labelled_loss(hidden[kept], weight, labels[kept], len(kept)), hidden)}


def attention(length: int, rows: int) -> Pair:
    """Rows of one length, laid end to end."""
    q, k, v = bf16(9, rows * length, 64), bf16(3, rows * length, 64), bf16(3, rows * length, 64)
    given = bf16(9, rows * length, 64, grad=False)
    lengths = [length] * rows
    ids = torch.arange(rows).repeat_interleave(length)
    mask = (ids[:, None] == ids) & torch.ones(len(ids), len(ids), dtype=torch.bool).tril()

    def of(out: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(out(), (q, k, v), given)

    def torchs() -> Tensor:
        shared = [x.unsqueeze(1).expand(-1, 3, -1, -1) for x in (k, v)]
        parts = zip(*(x.split(lengths, dim=2) for x in (q.view(3, 3, -1, 64), *shared)), strict=True)
        return torch.cat([scaled_dot_product_attention(*p, is_causal=True) for p in parts], dim=2).flatten(0, 1)

    def dense() -> Tensor:
        return scaled_dot_product_attention(q[None], k.repeat_interleave(3, 0)[None], v.repeat_interleave(3, 0)[None], attn_mask=mask)[0]

    return {"dense mask": of(dense), "PyTorch, row by row": of(torchs), "ours": of(lambda: row_attention(q, k, v, lengths, 0.0, None))}


def lora(tokens: int) -> Pair:
    """A frozen map with LoRA of rank 16, under autocast: PEFT's, PEFT's without its casts, ours."""
    model: Any = get_peft_model(nn.Sequential(nn.Linear(WIDTH, INNER, bias=False)).bfloat16(), LoraConfig(r=16, target_modules=["0"]))
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    x, given = bf16(tokens, WIDTH), bf16(tokens, INNER, grad=False)

    def run() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
        return torch.autograd.grad(out, [x, *trained], given)

    def uncast() -> object:
        with disable_input_dtype_casting(model, active=True):
            return run()

    def ours() -> object:
        with lean_lora(model):
            return run()

    return {"PEFT": run, "PEFT, uncast": uncast, "ours": ours}


def report(repeats: int, folder: Path) -> None:
    """All parts; ratios are to ours."""
    parts = {
        "loss head, 1,024 tokens": loss_head(1024),
        "attention, 16 rows of 64": attention(64, 16),
        "attention, 8 rows of 200": attention(200, 8),
        "attention, 4 rows of 500": attention(500, 4),
        "attention, 2 rows of 1,024": attention(1024, 2),
        "LoRA layer, 1,580 tokens": lora(1580),
    }
    found: dict[str, dict[str, float]] = {}
    for name, sides in parts.items():
        taken: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(4 + 4 * repeats):
            for side, job in sides.items():
                began = time.perf_counter()
                job()
                if turn > 1:
                    taken[side].append(time.perf_counter() - began)
        found[name] = {side: statistics.median(times) for side, times in taken.items()}
        ours = found[name]["ours"]
        print(f"{name:<28}" + "   ".join(f"{side} {1e3 * s:.1f} ms ({s / ours:.2f})" for side, s in found[name].items()), flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernels.json").write_text(json.dumps(found, indent=1) + "\n")
