"""Training by several processes, for real: the same losses as one process, each row once, signals, a rank that dies, sharded weights."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from tests.conftest import ROOT
from tests.lab import Lab, log_of, make_lab, task_of, train, weights_of
from tuner.context import Run
from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.runs import read_json
from tuner.train import ranks
from tuner.train.average import Ema
from tuner.train.rows import BLANK, Even, Filled, share_of

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchrun leaves its log files open
DDP = ("hardware=ddp", "hardware.device=cpu", "hardware.num_processes=2")
BARE = ("eval.enabled=false", "hub.enabled=false")


def curve(folder: Path) -> list[tuple[float, ...]]:
    """Loss, norm of the gradient and tokens by step; held-out losses."""
    return [tuple(e[k] for k in ("loss", "grad_norm", "tokens", "eval_loss") if k in e) for e in log_of(folder)]


def same(found: Path, expected: Path, *, rel: float = 1e-5) -> None:
    """Equal curves."""
    ours, theirs = curve(found), curve(expected)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=rel)


def worked(lab: Lab, *overrides: str) -> Path:
    """A worker on a plan, to its end."""
    path = lab.write_plan(*BARE, *overrides)
    worker = lab.start(path)
    output, _ = worker.communicate(timeout=240)
    assert worker.returncode == 0, output
    return path.parent.parent


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """45 rows, 8 a step: the last step of an epoch has 5, and three of the eight places are blank. All losses, norms and tokens agree."""
    lab = make_lab(tmp_path, rows=45, held_out=7)
    fixed = ("trainer.num_train_epochs=2", "trainer.eval_steps=4", "trainer.save_steps=0", "trainer.label_smoothing_factor=0.1")
    two = worked(lab, *fixed, *DDP, "hardware.micro_batch_size=2", "name=two")
    one = lab.run(*BARE, *fixed, "name=one")
    train(one)
    assert len(log_of(two)) == 12 + 3
    same(two, one.folder)
    for name, tensor in weights_of(two).items():
        torch.testing.assert_close(tensor, weights_of(one.folder)[name], rtol=1e-3, atol=1e-5)
    assert read_json(two / "state.json")["steps"] == 12, "the ranks tell it of the run that another process holds"


def test_each_row_once_whatever_the_processes() -> None:
    rows = list(range(13))
    order, once = [*Even(rows, 8)], sorted(rows)
    assert len(order) == 16
    assert sorted(order)[:3] == [BLANK] * 3
    assert sorted(order)[3:] == once
    assert [*Even(rows, 1)] == order[:13], "one process has the same order"
    again = Even(rows, 8)
    again.set_epoch(1)
    assert [*again] != order
    assert Filled([{"rows": [1]}])[BLANK]["rows"][0]["labels"] == [-100]
    shares = [share_of(7, rank=rank, world=3) for rank in range(3)]
    assert [len(share) for share in shares] == [3, 3, 3]
    assert sorted(i for share in shares for i in share if i != BLANK) == list(range(7))


def started(lab: Lab, *overrides: str) -> tuple[Any, Path]:
    """A worker whose two ranks have taken two steps."""
    path = lab.write_plan(*BARE, *DDP, *overrides)
    worker, folder = lab.start(path), path.parent.parent
    began = time.monotonic()
    while not (folder / "train_log.jsonl").is_file() or len(log_of(folder)) < 2:
        assert worker.poll() is None, worker.communicate()
        assert time.monotonic() - began < 120
        time.sleep(0.05)
    return worker, folder


LONG = ("trainer.max_steps=60", "trainer.save_steps=30")


@pytest.mark.slow
@pytest.mark.ci
def test_a_signal_stops_all_of_them_after_a_step_and_the_same_command_goes_on(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    worker, folder = started(lab, *LONG, "name=two")
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    state = read_json(folder / "state.json")
    assert state["status"] == "resume"
    assert 2 <= state["step"] < 60
    assert "the same command goes on" in output
    again = lab.start(folder / "plans" / next((folder / "plans").iterdir()).name)
    output, _ = again.communicate(timeout=200)
    assert again.returncode == 0, output
    assert f"going on from step {state['step']}" in output
    whole = worked(lab, *DDP, *LONG, "name=whole")
    assert curve(folder) == curve(whole), "bitwise those of two processes that nobody stopped"


@pytest.mark.slow
@pytest.mark.parametrize("there", ["ranks", "ranks/leader.json"])
def test_a_signal_before_the_first_step_is_a_preemption_too(there: str, tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    path = lab.write_plan(*BARE, *DDP, *LONG)
    worker, folder = lab.start(path), path.parent.parent
    began = time.monotonic()
    while not (folder / there).exists():
        time.sleep(0.01)
        assert time.monotonic() - began < 60
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    assert read_json(folder / "state.json")["status"] == "resume"


def test_what_all_ranks_have_is_written_by_one(tmp_path: Path) -> None:
    ema, state = Ema(0.9), TrainerState(global_step=3, is_world_process_zero=False)
    args, control = TrainingArguments(output_dir=str(tmp_path), use_cpu=True), TrainerControl()
    (tmp_path / "checkpoint-3").mkdir()
    ema.average = {"a": torch.ones(2)}
    ema.on_save(args, state, control)
    assert not [*(tmp_path / "checkpoint-3").iterdir()]
    state.is_world_process_zero = True
    ema.on_save(args, state, control)
    assert [p.name for p in (tmp_path / "checkpoint-3").iterdir()] == ["ema.safetensors"]


@pytest.mark.slow
def test_a_rank_that_dies_ends_the_others_and_is_told(tmp_path: Path) -> None:
    worker, folder = started(make_lab(tmp_path), *LONG)
    leader = read_json(folder / "ranks/leader.json")["pid"]
    other = next(pid for pid in ranks_of(worker.pid) if pid != leader)
    began = time.monotonic()
    os.kill(other, signal.SIGKILL)
    output, _ = worker.communicate(timeout=60)
    assert time.monotonic() - began < 30
    assert worker.returncode == ENVIRONMENT, output
    assert "process 1 of the training was ended by signal 9" in output
    assert "goes on from the last checkpoint" in output
    assert not [pid for pid in (leader, other) if Path(f"/proc/{pid}").exists()]
    assert read_json(folder / "state.json")["status"] == "failed"


def ranks_of(pid: int) -> list[int]:
    """Child processes that are ranks."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"tuner.rank" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (OSError, ValueError, IndexError):
            continue
    return found


@pytest.mark.slow
def test_an_error_of_the_ranks_is_told_as_in_one_process(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    path = lab.write_plan(
        *BARE, *DDP, "trainer.learning_rate=9.0", "trainer.max_steps=60", "trainer.max_grad_norm=0", "trainer.save_steps=0"
    )
    worker = lab.start(path)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 3, output
    assert "fix: lower `trainer.learning_rate`" in output
    assert "Traceback" not in output


def sharded(lab: Lab, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> Run:
    """Two ranks that Accelerate takes for two GPUs."""
    monkeypatch.setattr(ranks, "processes", lambda hardware, device: 2)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests/train/cpu_as_gpu'}{os.pathsep}{ROOT}")
    run = lab.run(*BARE, "hardware=fsdp", "hardware.device=auto", "hardware.num_processes=2", "name=two", *overrides)
    prepared = run.stage_folder("prepare")
    task_of(run).prepare(run, load("tuner.data.splits").split(run)[0], prepared)
    run.plan.write(run.folder / "plan.json")
    return run


@pytest.mark.slow
def test_fsdp_that_accelerate_leaves_out_in_silence_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPUs as they are it would train whole copies."""
    run = sharded(make_lab(tmp_path), monkeypatch)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with pytest.raises(TuneError, match="hardware=fsdp was asked for, and Accelerate has set up MULTI_CPU") as caught:
        ranks.over_ranks(run)
    assert caught.value.code == ENVIRONMENT


CASES = [
    ("trainer.eval_steps=3",),
    ("adapter=full", "trainer.activation_checkpointing=true", "hardware.reshard_after_forward=false"),
    ("adapter=dora", "trainer.padding_free=never", "hardware.cpu_ram_efficient_loading=false"),
    ("adapter=full", "hardware.tp_size=2", "trainer.save_steps=0"),
]


@pytest.mark.slow
@pytest.mark.parametrize("overrides", CASES, ids=["lora", "full, recomputed", "dora, padded", "tensor parallel"])
def test_sharded_weights_train_as_whole_ones(overrides: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP2 over two processes; what is saved is whole, and has the probe's loss."""
    lab = make_lab(tmp_path)
    run = sharded(lab, monkeypatch, "trainer.max_steps=6", *overrides)
    found = ranks.over_ranks(run)
    alone = lab.run(*BARE, "trainer.max_steps=6", "name=one", *(o for o in overrides if not o.startswith("hardware")))
    expected = train(alone)
    same(run.folder, alone.folder)
    assert found["probe_loss"] == pytest.approx(expected["probe_loss"], rel=1e-5)
    name = "model.safetensors" if "adapter=full" in overrides else "adapter_model.safetensors"
    whole = weights_of(alone.folder, name)
    for key, tensor in weights_of(run.folder, name).items():
        torch.testing.assert_close(tensor, whole[key], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kept", ["full", "sharded"])
def test_a_sharded_training_goes_on_from_its_checkpoint(
    kept: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    lab = make_lab(tmp_path)
    fixed = ("trainer.max_steps=6", "trainer.save_steps=3", "adapter=full", f"hardware.state_dict_type={kept}")
    run = sharded(lab, monkeypatch, *fixed)
    ranks.over_ranks(run)
    whole = curve(run.folder)
    for checkpoint in (run.folder / "checkpoints").glob("checkpoint-6"):
        (checkpoint / "seal.json").unlink()
    capfd.readouterr()
    ranks.over_ranks(run)
    assert "going on from step 3" in capfd.readouterr().out
    for one, other in zip(curve(run.folder), whole, strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_what_this_machine_has_not_is_told(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    for overrides, words in (
        (("hardware=fsdp",), "cuts a model over GPUs, and none is here"),
        (("hardware=ddp",), "no GPU is here to count"),
    ):
        run = lab.run(*overrides, "hardware.device=auto")
        with pytest.raises(TuneError, match=words):
            ranks.processes(run.recipe.hardware, run.device)  # type: ignore[arg-type]
