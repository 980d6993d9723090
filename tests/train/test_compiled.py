"""`trainer.torch_compile`: the losses of a plain training, nothing compiled twice, names and files as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from tests.lab import Lab, environ, log_of, losses_of, make_lab, task_of, tiny_model, train, weights_of
from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed
from tuner.train import compiled
from tuner.train.checkpoints import SEAL

PACKED = ("task.packing=true", "task.max_length=128", "trainer.batch_size=2", "trainer.save_steps=2", "trainer.max_steps=5")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler
@pytest.mark.parametrize(
    "more",
    [(), ("trainer.activation_checkpointing=true",), ("adapter=qlora",), ("adapter=adalora", "adapter.tinit=1", "adapter.tfinal=1")],
    ids=["plain", "recomputed", "4 bits", "ranks that are cut"],
)
def test_the_same_training_from_blocks_that_are_compiled_once(lab: Lab, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to 1e-4, also held-out ones, which have other shapes; after the first step no frame is compiled any more."""
    frames: list[int] = []
    fixed = (*PACKED, *more, "trainer.eval_steps=3")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    real = task_of(lab.run()).trainer  # type: ignore[attr-defined]

    def watched(*args: Any, **options: Any) -> Any:
        made = real(*args, **options)
        step = made.training_step

        def counted(*inputs: Any, **more: Any) -> Any:
            loss = step(*inputs, **more)
            frames.append(torch._dynamo.utils.counters["frames"]["ok"])
            return loss

        made.training_step = counted
        return made

    monkeypatch.setattr(task_of(lab.run()), "trainer", watched)
    fast = lab.run(*fixed, "trainer.torch_compile=true", "name=fast")
    train(fast)
    plain = lab.run(*fixed, "name=plain")
    frames_before = list(frames)
    train(plain)
    assert frames_before[0] > 0
    assert frames_before[1:5] == [frames_before[0]] * 4
    ours, theirs = ([e.get("loss", e.get("eval_loss")) for e in log_of(run.folder)] for run in (fast, plain))
    assert ours == pytest.approx(theirs, rel=1e-4)
    assert [e.get("tokens") for e in log_of(fast.folder)] == [e.get("tokens") for e in log_of(plain.folder)], "filler is not counted"
    names = set(weights_of(fast.folder))
    assert names == set(weights_of(plain.folder))
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model()), str(fast.folder))
    found = get_peft_model_state_dict(loaded)
    for name, saved in weights_of(fast.folder).items():
        assert torch.equal(found[name], saved), "plain PEFT finds each"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_two_processes_compile_and_train_as_one(lab: Lab) -> None:
    """Rows that fill an epoch's last batch are of the same shape as all."""
    fixed = (*PACKED[:-1], "trainer.max_steps=8", "eval.enabled=false", "hub.enabled=false")
    ranks = ("hardware=ddp", "hardware.device=cpu", "hardware.num_processes=2")
    plan = lab.write_plan(*fixed, *ranks, "trainer.torch_compile=true", "name=two")
    output, _ = (worker := lab.start(plan)).communicate(timeout=280)
    assert worker.returncode == 0, output[-3000:]
    one = lab.run(*fixed, "name=one")
    train(one)
    assert losses_of(plan.parent.parent) == pytest.approx(losses_of(one.folder), rel=1e-4)
    assert log_of(plan.parent.parent)[-1]["tokens"] == log_of(one.folder)[-1]["tokens"]


def test_batches_of_one_shape() -> None:
    rows = [{"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}, {"input_ids": [8, 9], "labels": [8, 9]}]
    found, plain = packed.flatten(rows, total=16), packed.flatten(rows)
    assert found["input_ids"].shape == found["labels"].shape == (1, 16)
    assert found["input_ids"][:, :5].equal(plain["input_ids"])
    assert found["labels"][:, :5].equal(plain["labels"])
    assert set(found["labels"][0, 5:].tolist()) == {packed.IGNORE}
    assert len(found["cu_seq_lens_q"]) == packed.ROWS
    assert found["cu_seq_lens_q"].tolist()[:4] == [0, 3, 5, 16]
    assert set(found["cu_seq_lens_q"].tolist()[4:]) == {16}
    assert found["max_length_q"] == 16
    assert packed.flatten([{"input_ids": [1] * 16, "labels": [1] * 16}], total=16)["cu_seq_lens_q"].tolist()[:3] == [0, 16, 16]


LOOK = """
import sys, torch
from tuner.errors import TuneError
from tuner.train.compiled import compiler_here
try:
    compiler_here(torch.device("cpu"))
except TuneError as error:
    print(error.problems[0].what)
    sys.exit(error.code)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "words"),
    [({"CXX": "/no/such/compiler"}, "No working C++ compiler"), ({"TORCH_COMPILE_DISABLE": "1"}, "no compiled frames"), ({}, "")],
    ids=["no compiler", "turned off", "here"],
)
def test_a_machine_that_cannot_compile_is_told(environment: dict[str, str], words: str) -> None:
    """A function is compiled for real: also where a cache holds what was compiled before."""
    command = [sys.executable, "-W", "ignore", "-c", LOOK]
    done = subprocess.run(command, env=environ(**environment), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == (ENVIRONMENT if words else 0), done.stderr[-2000:]
    assert words in done.stdout


def test_it_is_looked_for_before_training(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(function: Any, **options: Any) -> Any:
        raise RuntimeError("\nno compiler\nmore")

    monkeypatch.setattr(compiled.torch, "compile", none)
    run = lab.run(*PACKED, "trainer.torch_compile=true")
    with pytest.raises(TuneError, match=r"torch\.compile does not work here: no compiler$") as caught:
        task_of(run).possible(run)
    assert caught.value.code == ENVIRONMENT


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_more_shapes_than_are_compiled_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch would go on uncompiled, and tell nobody."""
    torch._dynamo.reset()
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model())

    def each_length() -> None:
        with compiled.compiled(model, wanted=True), torch.no_grad():
            for length in range(2, 14):
                model(torch.ones(1, length, dtype=torch.long), use_cache=False)

    with pytest.raises(TuneError, match="more than eight shapes"):
        each_length()
    assert all(block._compiled_call_impl is None for block in model.model.layers)


@pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler
def test_a_compiled_batch_is_not_cut_where_memory_runs_out(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(packed, "forward_loss", full)
    with pytest.raises(TuneError, match=r"compiled for is not cut\): CUDA out of memory") as caught:
        train(lab.run(*PACKED, "trainer.torch_compile=true"))
    assert caught.value.code == ENVIRONMENT
    assert caught.value.problems[0].fix.startswith("lower `hardware.micro_batch_size`")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_checkpoints_have_plain_names_and_go_on_with_or_without(lab: Lab) -> None:
    """Stopped after step 4 of 6: goes on compiled, to the losses of a training that never was."""
    fast, plain = (lab.run(*PACKED[:-1], "trainer.max_steps=6", f"trainer.torch_compile={c}", f"name={c}") for c in ("true", "false"))
    torch._dynamo.reset()
    train(fast)
    checkpoints = fast.folder / "checkpoints"
    assert "_orig_mod" not in "".join(weights_of(checkpoints / "checkpoint-4"))
    train(plain)
    assert set(weights_of(checkpoints / "checkpoint-4")) == set(weights_of(plain.folder / "checkpoints" / "checkpoint-4"))
    (checkpoints / "checkpoint-6" / SEAL).unlink()
    train(fast)
    assert any("going on from step 4 of 6" in told for told in lab.told)
    assert losses_of(fast.folder)[:6] == pytest.approx(losses_of(plain.folder), rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "is for one shape, and rows have many"),
        (("task.packing=true", "hardware=fsdp", "hardware.device=auto"), "gathered block by block"),
    ],
)
def test_what_cannot_be_compiled_is_refused(overrides: tuple[str, ...], words: str, lab: Lab) -> None:
    with pytest.raises(TuneError, match=words):
        lab.plan("trainer.torch_compile=true", *overrides)
