"""The promise: killed at any moment, the same command goes on, and on a CPU the adapter is bitwise that of an uninterrupted run.

Real worker processes, several epochs, dropout and micro-batches, so that data order, random state, optimizer and schedule all matter.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tests.lab import Lab, environ, log_of, losses_of, make_lab, train
from tuner import cli, worker
from tuner.commands.inventory import inspect_run
from tuner.runs import in_use
from tuner.state import read_state, state_of
from tuner.train.checkpoints import SEAL, all_checkpoints, broken, step_of
from tuner.train.fit import Interrupted

STEPS = 60
OVERRIDES = (
    "trainer.num_train_epochs=8.5",  # 56 rows in batches of 8: 7 steps an epoch
    "trainer.batch_size=8",
    "hardware.micro_batch_size=4",
    "adapter.lora_dropout=0.1",
    "trainer.save_steps=4",
    "hub=none",
)
ONLY_TRAIN = (*OVERRIDES, "eval=none")


def new_lab(folder: Path) -> Lab:
    return make_lab(folder, rows=56)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return new_lab(tmp_path_factory.mktemp("resume"))


@pytest.fixture(scope="module")
def whole(lab: Lab) -> Path:
    """The run folder of an uninterrupted training."""
    plan = lab.plan(*ONLY_TRAIN, "name=whole")
    assert worker.main([str(lab.write_plan(*ONLY_TRAIN, "name=whole"))]) == 0
    return Path(plan.folder)


def assert_same_result(folder: Path, whole: Path) -> None:
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (whole / weights).read_bytes()
    logged = [[exact(entry) for entry in log_of(f)] for f in (folder, whole)]
    assert [e["step"] for e in logged[0]] == list(range(1, STEPS + 1)), "each step once"
    assert logged[0] == logged[1]


def exact(entry: dict[str, float]) -> dict[str, float]:
    """A log entry without what depends on the clock."""
    return {name: value for name, value in entry.items() if name not in ("tokens_per_s", "time_s")}


@pytest.fixture
def workers() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes of a test; whatever is left of them ends with it."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object], *, timeout_s: float = 90) -> None:
    """Return as soon as `condition` holds. Fails when the process ends before."""
    ends = time.monotonic() + timeout_s
    while not condition():
        assert process.poll() is None, f"ended too early: {process.communicate()[0]}"
        assert time.monotonic() < ends, "the moment never came"
        time.sleep(0.001)


def kill_when(process: subprocess.Popen[str], condition: Callable[[], object]) -> str:
    """SIGKILL at a moment that is looked at twice, the second time with the process stopped. Returns what it had printed."""
    while True:
        wait_for(process, condition)
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)
        if condition():
            break
        process.send_signal(signal.SIGCONT)
    process.kill()
    output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    return output


def logged_steps(folder: Path) -> int:
    log = folder / "train_log.jsonl"
    return log.read_text().count("\n") if log.is_file() else 0


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=90)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.ci
def test_killed_at_five_moments_the_result_is_bitwise_that_of_an_uninterrupted_run(
    tmp_path: Path, whole: Path, workers: list[subprocess.Popen[str]]
) -> None:
    lab = new_lab(tmp_path / "killed")
    plan = lab.plan(*OVERRIDES)
    path, folder = lab.write_plan(*OVERRIDES), Path(plan.folder)
    checkpoints = folder / "checkpoints"

    def again() -> subprocess.Popen[str]:
        workers.append(lab.start(path))
        return workers[-1]

    def unsealed(beyond: int) -> bool:
        return any(step_of(c) > beyond and not (c / SEAL).is_file() for c in all_checkpoints(checkpoints))

    def sealed(beyond: int) -> bool:
        return any(step_of(c) > beyond and (c / SEAL).is_file() for c in all_checkpoints(checkpoints))

    def last() -> int:
        return max((step_of(c) for c in all_checkpoints(checkpoints) if broken(c) is None), default=0)

    kill_when(again(), lambda: plan.stage("prepare").done)  # between two stages
    assert not all_checkpoints(checkpoints)
    kill_when(again(), lambda: sealed(1))  # right after a checkpoint
    first = last()
    assert first >= 4
    output = kill_when(again(), lambda: unsealed(first + 4))  # in the middle of writing one
    assert f"going on from step {first} of {STEPS}" in output
    torn, second = max(step_of(c) for c in all_checkpoints(checkpoints)), last()
    assert torn > second > first
    output = kill_when(again(), lambda: sealed(second) and logged_steps(folder) > last())  # in the middle of a step
    assert f"checkpoint of step {torn} is not used: it was not completed" in output
    assert f"going on from step {second} of {STEPS}" in output
    output = kill_when(again(), lambda: plan.stage("train").done)  # trained, not yet measured
    trained = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    output = finish(again())
    assert "train" not in [line.split()[0] for line in output.splitlines() if line.endswith("…")]
    assert plan.done
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == trained, "not trained again"
    assert_same_result(folder, whole)
    assert not [p for p in folder.iterdir() if p.name.endswith(".tmp") or p.name == ".saving"], "nothing half-written is left"


@pytest.mark.slow
@pytest.mark.parametrize("task", [pytest.param("sft", marks=pytest.mark.ci), "pretrain"])
def test_a_stream_killed_in_between_goes_on_at_the_very_sample(task: str, tmp_path: Path, workers: list[subprocess.Popen[str]]) -> None:
    lab = new_lab(tmp_path)
    (tmp_path / "train.txt").write_text("".join(f"the text {i}{' and more' * (i % 9)}\n" for i in range(56)), encoding="utf-8")
    texts = (f"data.path={tmp_path}/train.txt", "task.max_length=80", "eval.metrics=[exact_match]") if task == "pretrain" else ()
    streamed = ("data.streaming=true", "data.shuffle_rows=9", f"trainer.max_steps={STEPS}", *ONLY_TRAIN[1:], f"task={task}", *texts)
    whole, killed = (Path(lab.plan(*streamed, f"name={name}").folder) for name in ("whole", "killed"))
    assert worker.main([str(lab.write_plan(*streamed, "name=whole"))]) == 0
    path = lab.write_plan(*streamed, "name=killed")
    for steps in (5, 30):
        workers.append(lab.start(path))
        kill_when(workers[-1], lambda steps=steps: logged_steps(killed) > steps)  # type: ignore[misc]
    workers.append(lab.start(path))
    assert "going on from step" in finish(workers[-1])
    assert_same_result(killed, whole)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow)]
)
def test_a_signal_saves_a_checkpoint_and_the_rerun_ends_the_same(
    lab: Lab, whole: Path, workers: list[subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    # save_steps enters no key and no result: the only checkpoint here is the one that the signal asked for.
    overrides = (*ONLY_TRAIN, f"name=signal-{number}", "trainer.save_steps=0")
    path, folder = lab.write_plan(*overrides), Path(lab.plan(*overrides).folder)
    workers.append(lab.start(path))
    wait_for(workers[-1], lambda: logged_steps(folder) >= 10)
    workers[-1].send_signal(number)
    output, _ = workers[-1].communicate(timeout=60)
    assert workers[-1].returncode == code, output
    (checkpoint,) = all_checkpoints(folder / "checkpoints")
    assert broken(checkpoint) is None
    assert f"stopped at step {step_of(checkpoint)}; the same command goes on from here" in output
    assert 10 <= step_of(checkpoint) < STEPS
    assert "Traceback" not in output
    assert not in_use(folder)
    state = state_of(folder)
    assert (state["status"], state["stage"], state["step"], state["steps"]) == ("resume", "train", step_of(checkpoint), STEPS)
    assert (inspect_run(folder).state, inspect_run(folder).step) == ("resume", step_of(checkpoint))
    assert worker.main([str(path)]) == 0
    assert_same_result(folder, whole)
    assert state_of(folder)["status"] == "finished"


class AtLast(TrainerCallback):
    """Sends this process a Ctrl-C when the last step begins."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: object) -> None:
        if state.global_step == STEPS - 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_in_the_last_step_is_obeyed_too(lab: Lab, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = (*ONLY_TRAIN, "name=last", "trainer.save_steps=0")
    monkeypatch.setattr("tuner.train.fit.trackers", lambda run: [AtLast()])
    with pytest.raises(Interrupted) as stopped:
        train(lab.run(*overrides))
    assert stopped.value.code == 130
    assert f"stopped at step {STEPS}; the same command goes on from here" in lab.told
    assert worker.main([str(lab.write_plan(*overrides))]) == 0
    assert_same_result(Path(lab.plan(*overrides).folder), whole)


@pytest.fixture(scope="module")
def stopped(lab: Lab) -> Path:
    """The run folder of a training that was killed with two whole checkpoints."""
    overrides = (*ONLY_TRAIN, "name=stopped")
    folder = Path(lab.plan(*overrides).folder)
    process = lab.start(lab.write_plan(*overrides))
    kill_when(process, lambda: logged_steps(folder) >= 13 and len(usable(folder)) == 2)
    return folder


def usable(folder: Path) -> list[Path]:
    return [c for c in all_checkpoints(folder / "checkpoints") if broken(c) is None]


def test_a_corrupted_newest_checkpoint_falls_back_to_the_one_before(
    lab: Lab, whole: Path, stopped: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(lab.plan(*ONLY_TRAIN, "name=corrupted").folder)
    shutil.copytree(stopped, folder)
    before, newest = usable(folder)
    content = bytearray((newest / "optimizer.pt").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (newest / "optimizer.pt").write_bytes(content)
    assert worker.main([str(lab.write_plan(*ONLY_TRAIN, "name=corrupted"))]) == 0
    printed = capsys.readouterr().out
    assert f"checkpoint of step {step_of(newest)} is not used: optimizer.pt is damaged" in printed
    assert f"going on from step {step_of(before)} of {STEPS}" in printed
    assert_same_result(folder, whole)


def test_no_usable_checkpoint_means_from_the_start(lab: Lab, whole: Path, stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(lab.plan(*ONLY_TRAIN, "name=lost").folder)
    shutil.copytree(stopped, folder)
    for checkpoint in all_checkpoints(folder / "checkpoints"):
        (checkpoint / SEAL).unlink(missing_ok=True)
    assert worker.main([str(lab.write_plan(*ONLY_TRAIN, "name=lost"))]) == 0
    assert "going on from step" not in capsys.readouterr().out
    assert_same_result(folder, whole)


def test_killed_while_the_result_is_saved(lab: Lab, whole: Path) -> None:
    """Every step is trained and checkpointed, the marker is missing: nothing is trained again, above all no step beyond the last."""
    name = "name=saving"
    copied = Path(lab.plan(*ONLY_TRAIN, name).folder)
    shutil.copytree(whole, copied)
    (copied / ".saving").mkdir()
    (copied / ".saving" / "adapter_model.safetensors").write_bytes(b"half")
    (copied / "adapter_model.safetensors").unlink()
    for marker in (copied / "stages").glob("train-*"):
        marker.unlink()
    assert step_of(all_checkpoints(copied / "checkpoints")[-1]) == STEPS
    assert worker.main([str(lab.write_plan(*ONLY_TRAIN, name))]) == 0
    assert_same_result(copied, whole)
    assert not (copied / ".saving").exists()


@pytest.mark.parametrize(
    "overrides",
    [
        ["model.dtype=bfloat16", "trainer.precision=bf16"],
        ["adapter=full", "model.dtype=bfloat16", "trainer.precision=bf16"],
        ["adapter=full", "trainer.optim=adafactor"],
        ["adapter=full", "trainer.optim=muon"],
        ["trainer.optim=lion_8bit"],
        ["trainer.optim=schedule_free_adamw", "trainer.lr_scheduler_type=constant", "trainer.eval_steps=3"],
        ["adapter=full", "trainer.optim=galore_adamw", "trainer.optim_args={rank: 4, update_proj_gap: 3}"],
        ["adapter=full", "trainer.optim=apollo_adamw", "trainer.optim_args={rank: 4, update_proj_gap: 3}"],
        ["trainer.ema_decay=0.9", "trainer.label_smoothing_factor=0.1", "trainer.eval_steps=3"],
        ["trainer.neftune_noise_alpha=5"],
        ["adapter=dora"],
        ["model.add_tokens=['<new>']"],
        ["adapter=qlora"],
        ["trainer.padding_free=never", "hardware.micro_batch_size=8"],
        ["task.packing=true", "task.max_length=128"],
        ["trainer.activation_checkpointing=true", "trainer.lr_scheduler_type=inverse_sqrt"],
        ["trainer.eval_steps=2", "trainer.load_best_model_at_end=true", "trainer.early_stopping_patience=5"],
        ["adapter.modules_to_save=[norm]", "adapter.bias=lora_only"],
    ],
)
def test_every_way_of_training_resumes_bitwise(tmp_path: Path, overrides: list[str]) -> None:
    """All but a checkpoint in the middle of an epoch is taken away, as a kill there would have left it."""
    lab = make_lab(tmp_path, rows=24)
    given = [
        "trainer.num_train_epochs=4",
        "trainer.save_steps=2",
        "trainer.save_total_limit=99",
        "hardware.micro_batch_size=2",
        "hub=none",
        "eval=none",
    ]
    given += ["trainer.batch_size=8"] + ([] if "adapter=full" in overrides else ["adapter.lora_dropout=0.1"]) + overrides
    if "task.packing=true" in overrides:
        given += ["trainer.batch_size=2"]
    run = lab.run(*given)
    facts = train(run)
    weights = run.folder / ("model.safetensors" if "adapter=full" in overrides else "adapter_model.safetensors")
    whole, log = weights.read_bytes(), log_of(run.folder)
    weights.unlink()
    assert facts["steps"] > 5
    for checkpoint in all_checkpoints(run.folder / "checkpoints"):
        if step_of(checkpoint) > 4:
            shutil.rmtree(checkpoint)
    again = train(lab.run(*given))
    assert again | {"seconds_before": 0.0} == facts
    assert again["seconds_before"] > 0, "of the steps before the kill"
    assert "going on from step 4 of" in " ".join(lab.told)
    assert weights.read_bytes() == whole
    assert [exact(e) for e in log_of(run.folder)] == [exact(e) for e in log]


def test_a_resume_on_other_hardware_sees_the_same_rows(tmp_path: Path) -> None:
    """Micro-batches place work: after a resume with others, losses differ by rounding alone."""
    lab = make_lab(tmp_path, rows=24)
    given = ["trainer.num_train_epochs=4", "trainer.save_total_limit=99", "eval=none"]
    run = lab.run(*given, "hardware.micro_batch_size=2")
    train(run)
    expected = losses_of(run.folder)
    for checkpoint in all_checkpoints(run.folder / "checkpoints"):
        if step_of(checkpoint) > 4:
            shutil.rmtree(checkpoint)
    train(lab.run(*given, "hardware.micro_batch_size=8"))
    assert losses_of(run.folder) == pytest.approx(expected, abs=1e-5)
    assert len(expected) == 12


LONG = ("trainer.max_steps=100000", "trainer.save_steps=0", "hub=none", "eval=none")


def test_a_second_process_on_the_same_folder_is_told(
    lab: Lab, workers: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, folder = lab.write_plan(*LONG, "name=busy"), Path(lab.plan(*LONG, "name=busy").folder)
    workers.append(lab.start(path))
    wait_for(workers[-1], lambda: in_use(folder))
    began = time.monotonic()
    assert worker.main([str(path)]) == 4
    assert time.monotonic() - began < 2
    printed = capsys.readouterr()
    assert f"the run folder is in use by process {workers[-1].pid} on " in printed.err
    assert "give this run another name" in printed.err
    workers[-1].kill()
    workers[-1].wait()
    assert not in_use(folder), "the system frees the lock of a dead process"


def tune(lab: Lab, *args: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "tuner", "recipe=small", f"output_dir={lab.folder / 'outputs'}", *args]
    return subprocess.Popen(argv, cwd=lab.folder, env=environ(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_worker_whose_command_is_killed_saves_and_stops(lab: Lab, workers: list[subprocess.Popen[str]]) -> None:
    folder = Path(lab.plan(*LONG, "name=orphan").folder)
    workers.append(tune(lab, *LONG, "name=orphan"))
    wait_for(workers[-1], lambda: logged_steps(folder) >= 3)
    workers[-1].kill()
    ends = time.monotonic() + 20
    while in_use(folder):
        assert time.monotonic() < ends, "the worker goes on alone"
        time.sleep(0.05)
    (checkpoint,) = all_checkpoints(folder / "checkpoints")
    assert broken(checkpoint) is None


def test_a_preempted_command_saves_and_exits_with_0(
    lab: Lab, workers: list[subprocess.Popen[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(lab.plan(*LONG, "name=preempted").folder)
    workers.append(tune(lab, *LONG, "name=preempted"))
    wait_for(workers[-1], lambda: logged_steps(folder) >= 3)
    assert state_of(folder)["status"] == "running"
    workers[-1].send_signal(signal.SIGUSR1)
    workers[-1].send_signal(signal.SIGTERM)  # what a cluster may send besides
    output, _ = workers[-1].communicate(timeout=60)
    assert workers[-1].returncode == 0, output
    (checkpoint,) = all_checkpoints(folder / "checkpoints")
    assert broken(checkpoint) is None
    assert cli.main(["ls", "runs", f"output_dir={lab.folder / 'outputs'}"]) == 0
    assert f"resume {step_of(checkpoint)}/100000" in capsys.readouterr().out
    assert cli.main(["show", str(folder)]) == 0
    assert f"resume (train, step {step_of(checkpoint)} of 100000)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 0), *(pytest.param(*other, marks=pytest.mark.slow) for other in ((signal.SIGUSR1, 0), (signal.SIGHUP, 129)))],
)
def test_a_signal_outside_training_leaves_nothing_half_written(
    tmp_path: Path, workers: list[subprocess.Popen[str]], number: signal.Signals, code: int
) -> None:
    lab = make_lab(tmp_path, rows=24)
    given = ("trainer.max_steps=4", "eval.max_new_tokens=40", "hub=none")
    path, folder = lab.write_plan(*given), Path(lab.plan(*given).folder)
    workers.append(lab.start(path))
    wait_for(workers[-1], lambda: read_state(folder).get("stage") == "baseline")
    workers[-1].send_signal(number)
    output, _ = workers[-1].communicate(timeout=60)
    assert workers[-1].returncode == code, output
    assert "the same command goes on from the last stage that is done" in output
    assert (state_of(folder)["status"], state_of(folder)["stage"]) == ("resume", "baseline")
    plan = lab.plan(*given)
    assert [s.name for s in plan.stages if s.done] == ["prepare"]
    assert worker.main([str(path)]) == 0
    assert plan.done
    assert state_of(folder)["status"] == "finished"


def test_a_killed_run_is_not_called_running(lab: Lab, stopped: Path) -> None:
    assert read_state(stopped)["status"] == "running"
    assert state_of(stopped)["status"] == inspect_run(stopped).state == "killed"
    assert 1 <= (inspect_run(stopped).step or 0) <= step_of(usable(stopped)[-1]), "never beyond what is whole"


def test_ctrl_c_on_the_command_reaches_the_worker(lab: Lab, workers: list[subprocess.Popen[str]]) -> None:
    folder = Path(lab.plan(*LONG, "name=typed").folder)
    workers.append(tune(lab, *LONG, "name=typed"))
    wait_for(workers[-1], lambda: logged_steps(folder) >= 3)
    workers[-1].send_signal(signal.SIGINT)
    output, _ = workers[-1].communicate(timeout=60)
    assert workers[-1].returncode == 130, output
    (checkpoint,) = all_checkpoints(folder / "checkpoints")
    assert state_of(folder)["status"] == "resume"
    assert f"stopped at step {step_of(checkpoint)}" in output
    assert "Traceback" not in output
