"""Twenty kills at random moments: whatever a training is doing, the same command ends bitwise in the uninterrupted result."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.lab import log_of, make_lab
from tuner import worker
from tuner.state import read_state
from tuner.train.checkpoints import all_checkpoints, broken

KILLS, SEED = 20, 4
STEPS = 300
MIXES = {
    "accumulated": ["hardware.micro_batch_size=2"],
    "packed": ["task.packing=true", "task.max_length=128", "trainer.batch_size=2"],
    "streamed": ["data.streaming=true", "data.shuffle_rows=9", "hardware.micro_batch_size=4"],
}
GIVEN = ("trainer.save_steps=3", "adapter.lora_dropout=0.1", f"trainer.max_steps={STEPS}", "eval=none", "hub=none")


def wait_until_training(process: subprocess.Popen[str], folder: Path) -> None:
    """Until the process's state says so, or it has ended."""
    while process.poll() is None:
        state = read_state(folder)
        if state.get("pid") == process.pid and state.get("stage") == "train":
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_twenty_random_kills_end_in_the_uninterrupted_result(tmp_path: Path) -> None:
    draw = random.Random(SEED)
    lab = make_lab(tmp_path, rows=24)
    left = KILLS
    resumed = 0
    for number, mix in enumerate(draw.sample(sorted(MIXES), len(MIXES))):
        given = (*MIXES[mix], *GIVEN)
        whole, folder = (Path(lab.plan(*given, f"name={name}-{mix}").folder) for name in ("whole", "killed"))
        assert worker.main([str(lab.write_plan(*given, f"name=whole-{mix}"))]) == 0
        path = lab.write_plan(*given, f"name=killed-{mix}")
        share = left // (len(MIXES) - number)
        left -= share
        for _ in range(share):
            process = lab.start(path)
            if draw.random() < 0.75:  # while it trains; else at any moment from the start on
                wait_until_training(process, folder)
            time.sleep(draw.uniform(0, 2.0))
            process.send_signal(signal.SIGKILL)
            output, _ = process.communicate()
            assert process.returncode in (-signal.SIGKILL, 0), output  # 0: it had finished already
            resumed += "going on from step" in output
        process = lab.start(path)
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output
        assert all(broken(c) is None for c in all_checkpoints(folder / "checkpoints"))
        weights = "adapter_model.safetensors"
        assert (folder / weights).read_bytes() == (whole / weights).read_bytes(), mix
        entries = [[(e["step"], e["loss"], e["grad_norm"]) for e in log_of(f)] for f in (folder, whole)]
        assert entries[0] == entries[1]
        assert [step for step, *_ in entries[0]] == list(range(1, STEPS + 1))
    assert left == 0
    assert resumed >= 5, "kills came too early to be worth anything"
