"""What only a CUDA device can show (mark `gpu`): kernels, precisions, quantisation and optimizers there, and the whole run on it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.lab import Lab, log_of, losses_of, make_lab, task_of, tiny_model, train, weights_of
from tuner.model.kernels import flash_rows, labelled_loss, row_attention
from tuner.pipeline import execute
from tuner.train.checkpoints import SEAL

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
CUDA = "hardware.device=cuda"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def test_flash_attention_stays_within_rows() -> None:
    torch.manual_seed(0)
    lengths, scale = [3, 700, 70], 0.2
    q, k, v = (torch.randn(heads, sum(lengths), 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for heads in (6, 2, 2))
    weights = torch.randn(6, sum(lengths), 64, device="cuda")
    starts = torch.tensor([0, 3, 703, 773], device="cuda", dtype=torch.int32)

    def run(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
        return out.detach().float(), *(g.float() for g in torch.autograd.grad((out * weights).sum(), inputs))

    wide = [x.detach().float().requires_grad_() for x in (q, k, v)]
    wanted = run(row_attention(*wide, lengths, 0.0, scale), *wide)
    found = run(flash_rows(*(x.transpose(0, 1) for x in (q, k, v)), starts, 700, scale).transpose(0, 1), q, k, v)
    for a, b in zip(found, wanted, strict=True):
        assert float((a - b).norm() / b.norm()) < 0.01


def test_the_loss_of_labelled_positions() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 64, device="cuda", dtype=torch.bfloat16) for n in (300, 50_000))
    hidden.requires_grad_()
    labels = torch.randint(0, 50_000, (300,), device="cuda")
    found = labelled_loss(hidden, weight, labels, 300)
    wanted = torch.nn.functional.cross_entropy((hidden.float() @ weight.float().T), labels)
    (a,), (b,) = (torch.autograd.grad(loss, hidden) for loss in (found, wanted))
    assert abs(float((found - wanted).detach())) < 0.02
    assert float((a - b).norm() / b.norm()) < 0.02


def test_a_run_learns_as_on_a_cpu(lab: Lab) -> None:
    settings = ("trainer.max_steps=6", "trainer.learning_rate=1e-3", "hub=none")
    on_cpu, on_gpu = lab.run(*settings, "name=cpu"), lab.run(*settings, CUDA, "name=gpu", device="cuda")
    for run in (on_cpu, on_gpu):
        run.plan.write(run.folder / "plan.json")
        execute(run)
    assert losses_of(on_gpu.folder) == pytest.approx(losses_of(on_cpu.folder), abs=2e-3)
    assert (on_gpu.folder / "metrics.json").is_file()
    base = AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32)
    ids = torch.tensor([AutoTokenizer.from_pretrained(str(tiny_model()))("hello")["input_ids"]])
    with torch.inference_mode():
        before = base(ids).logits
        assert (PeftModel.from_pretrained(base, str(on_gpu.folder)).eval()(ids).logits - before).abs().max() > 1e-3


KINDS: dict[str, tuple[str, ...]] = {
    "bf16": ("trainer.precision=bf16", "model.dtype=bfloat16"),
    "fp16": ("trainer.precision=fp16", "model.dtype=float16"),
    "full bf16": ("adapter=full", "trainer.precision=bf16", "trainer.learning_rate=3e-3"),
    "packing": ("task.packing=true", "trainer.precision=bf16", "trainer.batch_size=4"),
    "padding": ("trainer.padding_free=never", "trainer.precision=bf16"),
    "checkpointing": ("trainer.activation_checkpointing=true", "trainer.precision=bf16"),
    "offloading": ("trainer.activation_checkpointing=true", "trainer.activation_offloading=true", "trainer.precision=bf16"),
    "tf32": ("trainer.precision=tf32", "model.dtype=float32"),
    "fused kernels": ("trainer.precision=bf16", "model.dtype=bfloat16", "hardware.fused_kernels=always"),
    "4 bits": ("adapter=qlora", "model.dtype=bfloat16", "trainer.precision=bf16"),
    "8 bits": ("adapter=qlora8", "model.dtype=bfloat16", "trainer.precision=bf16"),
    "LoftQ": ("adapter=loftq", "model.dtype=bfloat16", "trainer.precision=bf16"),
    "DoRA": ("adapter=dora", "trainer.precision=bf16"),
    "paged": ("trainer.optim=paged_adamw_8bit", "trainer.precision=bf16"),
    "fused": ("trainer.optim=adamw_torch_fused", "trainer.precision=bf16"),
    "Muon": ("trainer.optim=muon", "trainer.precision=bf16", "trainer.learning_rate=3e-2"),
}


@pytest.mark.filterwarnings("ignore:inner dimension:UserWarning")  # of 4-bit layers as small as these
@pytest.mark.parametrize("name", KINDS)
def test_each_kind_of_training_lowers_the_loss(lab: Lab, name: str) -> None:
    if "hardware.fused_kernels=always" in KINDS[name]:
        pytest.importorskip("liger_kernel", reason="liger-kernel is not installed")
    run: Any = lab.run(CUDA, "trainer.max_steps=12", "hub=none", "eval=none", *KINDS[name], device="cuda")
    assert train(run)["steps"] == 12
    losses = losses_of(run.folder)
    assert sum(losses[-3:]) < 0.95 * sum(losses[:3])


def test_a_killed_run_goes_on_where_it_was(lab: Lab) -> None:
    whole, parted = (lab.run(CUDA, "trainer.max_steps=6", "eval=none", "hub=none", f"name={n}", device="cuda") for n in ("whole", "parted"))
    train(whole)
    train(parted)
    (parted.folder / "checkpoints" / "checkpoint-6" / SEAL).unlink()
    train(parted)
    assert any("going on from step 4 of 6" in told for told in lab.told)
    assert losses_of(parted.folder) == pytest.approx(losses_of(whole.folder), abs=1e-3)


STRATEGIES = {
    "ddp": ("hardware=ddp",),
    "fsdp": ("hardware=fsdp",),
    "fsdp, full, recomputed, offloaded": ("hardware=fsdp_offload", "adapter=full", "trainer.activation_checkpointing=true"),
    "fsdp, 4 bits": ("hardware=fsdp", "adapter=qlora"),
    "zero2": ("hardware=zero2",),
    "zero3, full": ("hardware=zero3", "adapter=full"),
    "zero3, full, offloaded": ("hardware=zero3_offload", "adapter=full"),
}


@pytest.mark.filterwarnings("ignore:inner dimension")  # of a model as small as this one
@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_over_nccl_trains_as_one_process(lab: Lab, name: str) -> None:
    """One process is what one GPU has; its plugins, kernels, checkpoints and results are those of many."""
    overrides = STRATEGIES[name]
    if "zero" in name:
        pytest.importorskip("deepspeed")
    fixed = ("trainer.max_steps=6", "trainer.learning_rate=1e-3", "trainer.precision=bf16", "hub=none", "eval.enabled=false")
    plan = lab.write_plan(*fixed, *overrides, CUDA, "hardware.num_processes=1", "name=many")
    worker = lab.start(plan)
    output, _ = worker.communicate(timeout=150)
    assert worker.returncode == 0, output[-3000:]
    alone = lab.run(*fixed, *(o for o in overrides if not o.startswith("hardware")), CUDA, "name=one", device="cuda")
    train(alone)
    found, wanted = losses_of(plan.parent.parent), losses_of(alone.folder)
    assert found == pytest.approx(wanted, rel=0.02), output[-2000:]
    assert found[-1] < found[0]
    assert list(plan.parent.parent.glob("*model.safetensors"))


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler
def test_compiled_blocks_train_as_they_would_without(lab: Lab) -> None:
    """Losses to bf16's rounding; after the first steps nothing is compiled any more."""
    fixed = ("task.packing=true", "task.max_length=128", "trainer.batch_size=4", "trainer.max_steps=8", "trainer.precision=bf16")
    fixed = (*fixed, "hub=none", "eval=none", CUDA)
    torch._dynamo.reset()
    fast, plain = (lab.run(*fixed, f"trainer.torch_compile={c}", f"name=compiled-{c}", device="cuda") for c in ("true", "false"))
    task_of(fast).possible(fast)
    torch._dynamo.utils.counters.clear()  # of the function that was tried
    train(fast)
    train(plain)
    assert torch._dynamo.utils.counters["frames"]["ok"] > 0
    assert losses_of(fast.folder) == pytest.approx(losses_of(plain.folder), rel=0.02)
    ends = [entry["time_s"] for entry in log_of(fast.folder)]
    assert max(b - a for a, b in pairwise(ends[2:])) < 0.2 * ends[0], "compiled at the first step alone"
    assert not [name for name in weights_of(fast.folder) if "_orig_mod" in name]


@pytest.mark.filterwarnings("ignore")
def test_eight_bits_train_as_sixteen(lab: Lab) -> None:
    """torchao's layers on the device's own units, over rows of all lengths: losses within 5 % of bf16's, and a result that loads."""
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 is a format of GPUs since Ada")
    float8 = pytest.importorskip("torchao.float8.float8_linear", reason="torchao is not installed")
    fixed = ("adapter=full", "trainer.max_steps=8", "trainer.learning_rate=1e-3", "hub=none", "eval=none", CUDA)
    eight, sixteen = (lab.run(*fixed, f"trainer.precision={p}", f"name={p}", device="cuda") for p in ("fp8", "bf16"))
    task_of(eight).possible(eight)
    calls: list[tuple[int, ...]] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, inputs: calls.append(tuple(inputs[0].shape)) if isinstance(module, float8.Float8Linear) else None
    )
    facts = train(eight)
    handle.remove()
    assert calls, "no layer was of eight bits"
    train(sixteen)
    assert losses_of(eight.folder) != losses_of(sixteen.folder)
    assert losses_of(eight.folder) == pytest.approx(losses_of(sixteen.folder), rel=0.05)
    task: Any = task_of(eight)
    assert task.probe(eight, task.load(eight, tuned=eight.folder)) == pytest.approx(facts["probe_loss"], rel=0.02)
