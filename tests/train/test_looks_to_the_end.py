"""Looks that are stopped, that log seldom, that have few steps or a loss that is none: a right verdict, or an error that says why."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.lab import Lab, log_of, losses_of, make_lab, tiny_model, train
from tuner import worker
from tuner.errors import TuneError
from tuner.runs import read_json
from tuner.state import read_state
from tuner.train.callbacks import Interrupted, Log
from tuner.train.debugging.lr import falls, smoothing, suggest

LR = ("debug=lr", "adapter=full", "debug.lr_min=1e-5", "debug.lr_max=10", "debug.steps=40")
LOOKS: dict[str, tuple[str, ...]] = {
    "lr": LR,
    "overfit": ("debug=overfit", "adapter=full", "trainer.learning_rate=1e-2", "trainer.batch_size=2", "debug.steps=200"),
    "profile": ("debug=profile", "debug.steps=3"),
    "noise": ("debug=noise", "debug.steps=6"),
}
RESULTS = {"lr": "lr_finder.json", "profile": "profile/summary.json", "noise": "noise.json"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.fixture
def stopped_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """A SIGTERM to this process once a step is logged; none after it."""

    def arrange(step: int) -> None:
        plain = Log.on_log

        def on_log(self: Log, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
            plain(self, args, state, control, logs, **more)
            if state.global_step == step:
                monkeypatch.undo()
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(Log, "on_log", on_log)

    return arrange


@pytest.mark.parametrize("kind", LOOKS)
def test_a_look_that_was_stopped_begins_anew_and_finds_the_same(lab: Lab, stopped_at: Callable[[int], None], kind: str) -> None:
    whole = lab.run(*LOOKS[kind], "name=whole")
    train(whole)
    said = [line for line in lab.told if "learned by heart" in line or "falls fastest" in line]
    lab.told.clear()
    run = lab.run(*LOOKS[kind], "trainer.save_steps=2")
    stopped_at(3)
    with pytest.raises(Interrupted) as stop:
        train(run)
    assert stop.value.code == 0
    assert len(losses_of(run.folder)) == 3
    assert "stopped at step 4; the same command begins anew" in lab.told
    train(run)
    assert losses_of(run.folder) == losses_of(whole.folder)
    assert [line for line in lab.told if "learned by heart" in line or "falls fastest" in line] == said
    if kind in ("lr", "noise"):
        assert read_json(run.folder / RESULTS[kind]) == read_json(whole.folder / RESULTS[kind])
    if kind == "profile":
        assert read_json(run.folder / RESULTS[kind])["tokens"] == read_json(whole.folder / RESULTS[kind])["tokens"]


def test_a_look_that_is_preempted_exits_with_0(lab: Lab, stopped_at: Callable[[int], None]) -> None:
    path, folder = lab.write_plan(*LOOKS["overfit"]), Path(lab.plan(*LOOKS["overfit"]).folder)
    stopped_at(3)
    assert worker.main([str(path)]) == 0
    assert read_state(folder)["status"] == "resume"
    assert worker.main([str(path)]) == 0
    assert read_state(folder)["status"] == "finished"


def test_a_profile_that_is_preempted_ends_its_process_well(lab: Lab) -> None:
    path, folder = lab.write_plan("debug=profile", "debug.steps=900"), Path(lab.plan("debug=profile", "debug.steps=900").folder)
    process = lab.start(path)
    try:
        until = time.monotonic() + 60
        while not ((folder / "train_log.jsonl").is_file() and len(losses_of(folder)) > 4) and time.monotonic() < until:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert read_state(folder)["status"] == "resume"


@pytest.mark.parametrize("every", [5, 500])
def test_seldom_logging_changes_no_suggestion(lab: Lab, every: int) -> None:
    found = []
    for given in ((), (f"trainer.logging_steps={every}",)):
        run = lab.run(*LR, *given)
        train(run)
        found.append(read_json(run.folder / "lr_finder.json"))
    assert found[0] == found[1]


def test_seldom_logging_changes_no_verdict(lab: Lab) -> None:
    for given in (("debug.steps=5", "trainer.logging_steps=10"), ("debug.steps=20", "trainer.logging_steps=10")):
        with pytest.raises(TuneError, match=f"not learned by heart: its loss is .* after {given[0].partition('=')[2]} steps") as caught:
            train(lab.run("debug=overfit", "trainer.learning_rate=1e-9", *given))
        assert caught.value.code == 3


def test_the_log_has_the_rate_in_use(lab: Lab) -> None:
    run = lab.run(*LR)
    train(run)
    curve = read_json(run.folder / "lr_finder.json")["curve"]
    assert [e["learning_rate"] for e in log_of(run.folder)] == [point["learning_rate"] for point in curve]


@pytest.mark.parametrize("steps", [10, 20])
def test_few_steps_are_enough_where_the_loss_falls(lab: Lab, steps: int) -> None:
    run = lab.run("debug=lr", "adapter=full", f"debug.steps={steps}")
    train(run)
    assert 1e-4 < read_json(run.folder / "lr_finder.json")["suggestion"] < 1e-1


def test_a_loss_that_is_no_number_is_told(lab: Lab) -> None:
    broken = lab.folder / "broken"
    shutil.copytree(tiny_model(), broken)
    model = AutoModelForCausalLM.from_pretrained(str(broken))
    torch.nn.init.constant_(model.model.norm.weight, math.nan)
    model.save_pretrained(str(broken))
    with pytest.raises(TuneError, match="the loss is not a number, at a rate of 1e-06") as caught:
        train(lab.run("debug=lr", f"model.id={broken}"))
    assert caught.value.code == 3


def test_smoothing_begins_where_the_loss_does() -> None:
    assert [smoothing(n) for n in (10, 20, 100, 10_000)] == pytest.approx([0, 0.5, 0.9, 0.98])


def test_chance_is_no_fall() -> None:
    generator = torch.Generator().manual_seed(0)
    found = {"still": 0, "falls": 0}
    for _ in range(100):
        still = (2 + 0.15 * torch.randn(100, generator=generator)).tolist()
        falling = [loss - 0.6 * min(1.0, max(0.0, (i - 40) / 25)) for i, loss in enumerate(still)]
        found["still"] += falls(still, smooth(still), smoothing(100))
        found["falls"] += falls(falling, smooth(falling), smoothing(100))
    assert found["still"] <= 10
    assert found["falls"] >= 95


def smooth(losses: list[float]) -> list[float]:
    """As the look does, told another way: weights of 0.9 to the power of the age, which add up to one."""
    weights = [[0.9 ** (i - j) for j in range(i + 1)] for i in range(len(losses))]
    return [sum(w * loss for w, loss in zip(ws, losses, strict=False)) / sum(ws) for ws in weights]


def test_the_suggestion_lies_on_the_slope() -> None:
    rates = [10 ** (-6 + i * 6 / 99) for i in range(100)]
    losses = [5 - 2 * min(1.0, max(0.0, (i - 40) / 20)) + max(0.0, (i - 75) / 5) for i in range(100)]
    assert rates[40] < suggest(rates, losses) < rates[60]


@pytest.mark.parametrize(
    "given", [("debug=profile", "trainer.max_steps=1"), ("debug=lr", "trainer.max_steps=20"), ("debug=lr", "trainer.max_steps=null")]
)
def test_fewer_steps_than_a_look_needs_are_refused(lab: Lab, given: tuple[str, ...]) -> None:
    with pytest.raises(TuneError, match=r"needs (5|100) steps, and `trainer\.max_steps` is (1|20|not set)"):
        lab.plan(*given)


def test_more_steps_than_are_recorded_change_no_profile(lab: Lab) -> None:
    run = lab.run("debug=profile", "debug.steps=2", "trainer.max_steps=7")
    train(run)
    tokens = [entry["tokens"] for entry in log_of(run.folder)]
    assert json.loads((run.folder / "profile" / "summary.json").read_text())["tokens"] == tokens[3] - tokens[1]
