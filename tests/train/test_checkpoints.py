"""Checkpoints that are whole or do not count."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.train.checkpoints import SEAL, all_checkpoints, broken, newest, rotate, seal, step_of


def make(folder: Path, step: int, *, sealed: bool = True) -> Path:
    checkpoint = folder / f"checkpoint-{step}"
    (checkpoint / "deep").mkdir(parents=True)
    for name in ("adapter_model.safetensors", "optimizer.pt", "deep/rng_state.pth"):
        (checkpoint / name).write_bytes(f"{name} of {step}".encode() * 100)
    if sealed:
        seal(checkpoint)
    return checkpoint


def test_a_sealed_checkpoint_is_whole(tmp_path: Path) -> None:
    assert broken(make(tmp_path, 3)) is None


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "optimizer.pt", "deep/rng_state.pth"])
def test_one_changed_byte_breaks_it(tmp_path: Path, name: str) -> None:
    checkpoint = make(tmp_path, 3)
    content = bytearray((checkpoint / name).read_bytes())
    content[-1] ^= 1
    (checkpoint / name).write_bytes(content)
    assert broken(checkpoint) == f"{name} is damaged"
    (checkpoint / name).write_bytes(content[:-1])
    assert broken(checkpoint) == f"{name} is damaged"
    (checkpoint / name).unlink()
    assert broken(checkpoint) == f"{name} is missing"


def test_no_seal_or_a_damaged_one_breaks_it(tmp_path: Path) -> None:
    checkpoint = make(tmp_path, 3, sealed=False)
    assert broken(checkpoint) == "it was not completed"
    for text in ('{"adapter_model', "", '{"adapter_model.safetensors": 3}'):
        (checkpoint / SEAL).write_text(text)
        assert broken(checkpoint) is not None, text


def test_checkpoints_are_ordered_by_step(tmp_path: Path) -> None:
    for step in (100, 9, 20):
        make(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [9, 20, 100]
    assert all_checkpoints(tmp_path / "gone") == []


def test_the_newest_whole_one_is_taken_and_the_others_told_and_removed(tmp_path: Path) -> None:
    make(tmp_path, 2)
    good = make(tmp_path, 4)
    (make(tmp_path, 6) / "optimizer.pt").write_bytes(b"")
    make(tmp_path, 8, sealed=False)
    told: list[str] = []
    assert newest(tmp_path, tell=told.append) == good
    assert told == [
        "checkpoint of step 8 is not used: it was not completed",
        "checkpoint of step 6 is not used: optimizer.pt is damaged",
    ]
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [2, 4]


def test_no_whole_checkpoint_means_from_the_start(tmp_path: Path) -> None:
    make(tmp_path, 2, sealed=False)
    told: list[str] = []
    assert newest(tmp_path, tell=told.append) is None
    assert len(told) == 1
    assert newest(tmp_path / "gone", tell=told.append) is None


def test_the_oldest_go_and_the_best_stays(tmp_path: Path) -> None:
    for step in (2, 4, 6, 8, 10):
        make(tmp_path, step)
    rotate(tmp_path, keep=2, best=tmp_path / "checkpoint-4")
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [4, 8, 10]
    rotate(tmp_path, keep=2, best=tmp_path / "checkpoint-10")
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [8, 10]
    rotate(tmp_path, keep=1, best=None)
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [10]
    rotate(tmp_path, keep=5, best=None)
    assert [step_of(p) for p in all_checkpoints(tmp_path)] == [10]
