"""`trainer.precision: auto`: what the device is fast in, weights with it; chosen where the run runs, and said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.lab import Lab, make_lab
from tuner import capacity
from tuner.capacity import settled
from tuner.estimate import estimate
from tuner.pipeline import execute
from tuner.runs import read_json

AUTO = ("trainer.precision=auto", "model.dtype=auto")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "device", "narrow", "precision", "dtype"),
    [
        ((), "cpu", True, "bf16", "bfloat16"),
        ((), "cpu", False, "fp32", "float32"),
        ((), "cuda", True, "bf16", "bfloat16"),
        ((), "cuda", False, "fp16", "float16"),
        (("trainer.precision=fp32",), "cpu", True, "fp32", "float32"),
        (("trainer.precision=bf16",), "cpu", False, "bf16", "bfloat16"),
        (("model.dtype=float32",), "cpu", True, "bf16", "float32"),
        (("model.dtype=bfloat16",), "cpu", False, "bf16", "bfloat16"),
        (("model.dtype=bfloat16", "adapter=full"), "cpu", False, "fp32", "bfloat16"),
    ],
)
def test_what_is_left_to_us(lab: Lab, overrides: tuple[str, ...], device: str, narrow: bool, precision: str, dtype: str) -> None:
    found = settled(lab.plan(*AUTO, *overrides).load_recipe(), device, narrow=narrow)
    assert (found.trainer.precision.value, found.model.dtype.value) == (precision, dtype)


@pytest.mark.parametrize(("units", "dtype", "said"), [([], torch.float32, "fp32"), (["AMX"], torch.bfloat16, "AMX")])
def test_a_run_takes_what_the_processor_is_fast_in(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, units: list[str], dtype: torch.dtype, said: str
) -> None:
    for place in ("tuner.capacity", "tuner.train.fit"):
        monkeypatch.setattr(f"{place}.bf16_units", lambda: units)
    wanted = (*AUTO, "trainer.max_steps=1", "eval.enabled=false", "hub=none")
    run = lab.run(*wanted)
    run.plan.write(run.folder / "plan.json")
    key = run.plan.stage("train").key
    execute(run)
    base = run.recipe.model.dtype.value
    assert base == str(dtype).removeprefix("torch.")
    assert read_json(run.folder / "lock.json")["formats"]["dtype"] == base
    assert any(f"on cpu ({said}" in line for line in lab.told)
    assert lab.plan(*wanted).stage("train").key == key


def test_the_memory_that_is_planned_is_that_of_the_format(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for units in ([], ["AMX"]):
        monkeypatch.setattr(capacity, "bf16_units", lambda units=units: units)
        found.append(estimate(lab.plan(*AUTO)).memory_bytes or 0)
    assert found[0] > found[1] > 0
