"""`trainer.torch_compile`: the losses of a plain training, nothing compiled twice, names and files as ever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.lab import Lab, log_of, make_lab, task_of, tiny_model, train, weights_of
from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed
from tuner.train import compiled

PACKED = ("task.packing=true", "task.max_length=128", "trainer.batch_size=2", "trainer.save_steps=2", "trainer.max_steps=5")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of PyTorch's own compiler
@pytest.mark.parametrize("more", [(), ("trainer.activation_checkpointing=true",)], ids=["plain", "recomputed"])
def test_the_same_training_from_blocks_that_are_compiled_once(lab: Lab, more: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses to 1e-4, also held-out ones, which have other shapes; after the first step no frame is compiled any more."""
    frames: list[int] = []
    fixed = (*PACKED, *more, "trainer.eval_steps=3")
    torch._dynamo.reset()
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
    assert loaded.active_peft_config.r == 16


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


def test_a_machine_without_a_compiler_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    run = lab.run(*PACKED, "trainer.torch_compile=true")
    with pytest.raises(TuneError, match=r"needs a C\+\+ compiler") as caught:
        task_of(run).possible(run)
    assert caught.value.code == ENVIRONMENT


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "is for one shape, and rows have many"),
        (("task.packing=true", "adapter=qlora"), "no compiler sees through"),
        (("task.packing=true", "adapter=adalora"), "changes its matrices' shapes"),
        (("task.packing=true", "hardware=fsdp", "hardware.device=auto"), "gathered block by block"),
    ],
)
def test_what_cannot_be_compiled_is_refused(overrides: tuple[str, ...], words: str, lab: Lab) -> None:
    with pytest.raises(TuneError, match=words):
        lab.plan("trainer.torch_compile=true", *overrides)
