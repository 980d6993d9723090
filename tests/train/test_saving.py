"""Checkpoints written beside the training: copies, one at a time, errors at the next step, and the first save at the first step."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.lab import Lab, log_of, make_lab, train
from tuner.errors import ENVIRONMENT, TuneError
from tuner.train import saving
from tuner.train.budget import checkpoint_bytes, copies
from tuner.train.checkpoints import all_checkpoints, broken, step_of
from tuner.train.saving import Writer, changing, snapshot

GIVEN = ("trainer.max_steps=6", "trainer.save_steps=2", "trainer.save_total_limit=99", "eval=none", "hub=none")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path, rows=24)


def saved(folder: Path) -> list[int]:
    found = all_checkpoints(folder / "checkpoints")
    assert [broken(c) for c in found] == [None] * len(found)
    return [step_of(c) for c in found]


def test_a_snapshot_is_a_copy_in_which_what_was_one_stays_one() -> None:
    weight = torch.ones(3)
    tree = {"a": weight, "tied": weight, "deep": [{"step": torch.tensor(1.0), "lr": 0.1}]}
    copy = snapshot(tree)
    weight.zero_()
    assert copy["a"].tolist() == [1, 1, 1]
    assert copy["tied"] is copy["a"]
    assert copy["deep"] == [{"step": torch.tensor(1.0), "lr": 0.1}]


def test_only_what_changes_is_copied() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    model[0].requires_grad_(False)
    state = changing(model)
    same = {name for name, tensor in model.state_dict().items() if tensor.data_ptr() == state[name].data_ptr()}
    assert same == {"0.weight", "0.bias"}
    assert state.keys() == model.state_dict().keys()


def test_a_second_checkpoint_waits_for_the_first(tmp_path: Path) -> None:
    writer, gate, done = Writer(), threading.Event(), []
    writer.begin(tmp_path / "checkpoint-1")
    writer.later(gate.wait)
    writer.later(lambda: done.append(1))
    writer.start()
    assert done == []
    threading.Timer(0.2, gate.set).start()
    writer.begin(tmp_path / "checkpoint-2")
    assert done == [1]


@pytest.mark.parametrize("background", [True, False])
def test_the_first_save_comes_with_the_first_step_and_rotation_takes_it(lab: Lab, background: bool) -> None:
    given = (*GIVEN, f"hardware.async_save={str(background).lower()}")
    run = lab.run(*given)
    train(run)
    assert saved(run.folder) == [1, 2, 4, 6]
    run = lab.run(*given, "trainer.save_total_limit=2", "name=rotated")
    train(run)
    assert saved(run.folder) == [4, 6]
    run = lab.run(*given, "trainer.save_steps=0", "name=never")
    train(run)
    assert saved(run.folder) == []


def test_written_beside_or_not_a_checkpoint_holds_the_same(lab: Lab) -> None:
    folders = []
    for background in ("true", "false"):
        run = lab.run(*GIVEN, f"name=b{background}", f"hardware.async_save={background}")
        train(run)
        folders.append(run.folder / "checkpoints" / "checkpoint-4")
    names = [sorted(p.name for p in folder.iterdir()) for folder in folders]
    assert names[0] == names[1]
    for name in ("adapter_model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def failing(monkeypatch: pytest.MonkeyPatch, step: int, number: int) -> None:
    """The optimizer's state of a step meets an error of the disk."""
    save = torch.save

    def fails(what: Any, path: Any) -> None:
        if f"checkpoint-{step}/optimizer.pt" in str(path):
            raise OSError(number, os.strerror(number), str(path))
        save(what, path)

    monkeypatch.setattr("torch.save", fails)


def test_a_folder_that_cannot_be_written_is_told_after_the_first_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, 1, errno.EROFS)
    run = lab.run(*GIVEN, "trainer.save_steps=50")
    with pytest.raises(TuneError) as failed:
        train(run)
    assert failed.value.code == ENVIRONMENT
    assert str(failed.value) == "the checkpoint of step 1 cannot be written: Read-only file system; there is no earlier one"
    assert len(log_of(run.folder)) == 1


@pytest.mark.parametrize("background", ["true", "false"])
def test_a_disk_that_fills_up_keeps_the_last_whole_checkpoint(lab: Lab, monkeypatch: pytest.MonkeyPatch, background: str) -> None:
    failing(monkeypatch, 4, errno.ENOSPC)
    run = lab.run(*GIVEN, f"hardware.async_save={background}")
    with pytest.raises(TuneError) as failed:
        train(run)
    assert failed.value.code == ENVIRONMENT
    text = "the checkpoint of step 4 cannot be written: No space left on device; the checkpoint of step 2 is kept"
    assert str(failed.value) == text
    assert saved(run.folder) == [1, 2], "what is torn is gone"
    assert len(log_of(run.folder)) <= 5 + (background == "true"), "at once, or at the next step"
    monkeypatch.undo()
    train(lab.run(*GIVEN))
    assert "going on from step 2 of 6" in lab.told
    assert saved(run.folder) == [1, 2, 4, 6]


def test_a_fault_of_ours_is_not_called_the_disk_s(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(folder: Path) -> None:
        raise RuntimeError("mismatch")

    monkeypatch.setattr(saving, "seal", wrong)
    with pytest.raises(RuntimeError, match="mismatch"):
        train(lab.run(*GIVEN))


@pytest.mark.parametrize("adapter", ["lora", "full"])
@pytest.mark.parametrize("optim", ["adamw_torch", "adafactor", "muon", "lion_32bit", "sgd"])
def test_the_size_of_a_checkpoint_is_known_before(lab: Lab, optim: str, adapter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr("tuner.train.fit.affordable", lambda run, model, **_: found.append(checkpoint_bytes(model, run.recipe)))
    run = lab.run(*GIVEN[1:], "trainer.max_steps=1", f"adapter={adapter}", f"trainer.optim={optim}")
    train(run)
    folder = run.folder / "checkpoints" / "checkpoint-1"
    weights = folder / ("model.safetensors" if adapter == "full" else "adapter_model.safetensors")
    ((expected, state),) = found
    assert weights.stat().st_size == pytest.approx(expected, rel=0.05, abs=6_000)
    # The tiny model's tensors are so small that torch's frame around each counts; Muon's bound is AdamW for the embeddings.
    assert (folder / "optimizer.pt").stat().st_size == pytest.approx(state, rel=0.05, abs=60_000)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], 3),
        (["trainer.save_total_limit=5"], 6),
        (["trainer.save_steps=100"], 2),
        (["trainer.save_steps=0"], 1),
        (["trainer.eval_steps=5", "trainer.load_best_model_at_end=true"], 4),
    ],
)
def test_checkpoints_that_lie_on_the_disk_at_once_are_counted(lab: Lab, overrides: list[str], expected: int) -> None:
    assert copies(lab.run("trainer.max_steps=100", "trainer.save_steps=10", *overrides).recipe, 100) == expected


def test_a_disk_too_small_is_told_before_the_first_step(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.train.budget.shutil.disk_usage", lambda place: SimpleNamespace(free=100_000))
    run = lab.run(*GIVEN, "trainer.save_total_limit=2")
    with pytest.raises(TuneError, match="the disk is too small: 3 checkpoints of") as told:
        train(run)
    assert told.value.code == ENVIRONMENT
    assert not (run.folder / "train_log.jsonl").exists()
    monkeypatch.setattr("tuner.train.budget.shutil.disk_usage", lambda place: SimpleNamespace(free=1_000_000))
    train(run)
    monkeypatch.setattr("tuner.train.budget.shutil.disk_usage", lambda place: SimpleNamespace(free=200_000))
    train(run)  # two of the three are there
