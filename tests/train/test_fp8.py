"""`trainer.precision: fp8`: refused where it means nothing, told where it is not there; torchao's layers for real, emulated on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import ROOT
from tests.lab import Lab, make_lab, task_of
from tuner.errors import ENVIRONMENT, TuneError
from tuner.train.args import possible_on

FP8 = ("trainer.precision=fp8", "hardware.device=auto")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ((), "LoRA leaves them frozen"),
        (("adapter=full", "hardware=zero2"), "without fp8"),
        (("adapter=full", "hardware=fsdp"), "one process reads"),
        (("adapter=full", "hardware.device=cpu"), "since Ada"),
    ],
)
def test_where_it_means_nothing_it_is_refused(overrides: tuple[str, ...], words: str, lab: Lab) -> None:
    with pytest.raises(TuneError, match=words):
        lab.plan(*FP8, *overrides)


def test_a_device_or_a_package_that_is_not_there_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    run = lab.run(*FP8, "adapter=full")
    with pytest.raises(TuneError, match="this run is on none") as caught:
        task_of(run).possible(run)
    assert caught.value.code == ENVIRONMENT
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr("tuner.train.args.find_spec", lambda name: None)
    with pytest.raises(TuneError, match="fp8 needs torchao"):
        possible_on(run.recipe.trainer, torch.device("cuda"))


EMULATED = """
import json, sys
from pathlib import Path
import torch
import accelerate.accelerator as a
from accelerate.utils.ao import convert_model_to_fp8_ao
from torchao.float8 import Float8LinearConfig
from tests.lab import make_lab, train, losses_of
import tuner.train.args as args

def emulated(model, config=None, module_filter_func=None):
    convert_model_to_fp8_ao(model, config=Float8LinearConfig(emulate=True), module_filter_func=module_filter_func)
    holds.append([type(config).__name__, config.pad_inner_dim, config.emulate])
    kinds.append(sorted({type(m).__name__ for m in model.modules() if isinstance(m, torch.nn.Linear)}))

kinds, holds = [], []
a.convert_model_to_fp8_ao = emulated
args.possible_on = lambda trainer, device: None
lab = make_lab(Path(sys.argv[1]))
fixed = ("adapter=full", "trainer.max_steps=6", "hardware.device=auto", "eval.enabled=false", "hub.enabled=false")
eight = lab.run(*fixed, "trainer.precision=fp8", "name=eight")
facts = train(eight)
sixteen = lab.run(*fixed, "trainer.precision=bf16", "name=sixteen")
train(sixteen)
packs = (*fixed, "trainer.precision=fp8", "task.packing=true", "task.max_length=128", "trainer.batch_size=2")
packed, fast = (lab.run(*packs, f"trainer.torch_compile={c}", f"name={n}") for c, n in (("false", "packed"), ("true", "compiled")))
train(packed)
train(fast)
found = {"kinds": kinds, "holds": holds, "probe": facts["probe_loss"]}
found |= {run.plan.name: losses_of(run.folder) for run in (eight, sixteen, packed, fast)}
task = __import__("tests.lab", fromlist=["task_of"]).task_of(eight)
found["loaded"] = task.probe(eight, task.load(eight, tuned=eight.folder))
print(json.dumps(found))
"""


@pytest.mark.slow
def test_blocks_multiply_in_eight_bits_and_the_result_is_plain(tmp_path: Path) -> None:
    """torchao is no part of the tests' environment (every import of Transformers would load it): put beside it for this one."""
    place = tmp_path / "torchao"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(place),
        "-c",
        str(ROOT / "constraints.txt"),
        "torchao",
    ]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        pytest.skip("torchao cannot be installed here")
    paths = os.pathsep.join([str(place), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EMULATED, str(tmp_path / "lab")],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["kinds"] == [["Float8Linear", "Linear"]] * 3, "the first map and the head stay in bf16"
    assert found["holds"] == [["Float8LinearConfig", True, False]] * 3, (
        "what a GPU gets: rows end to end are of any length, and are padded to 16"
    )
    assert found["eight"] != found["sixteen"]
    assert found["compiled"] == pytest.approx(found["packed"], rel=0.01)
    assert found["eight"] == pytest.approx(found["sixteen"], rel=0.03)
    assert found["loaded"] == pytest.approx(found["probe"], rel=0.01), "what is saved is what was probed: without the 8-bit layers"
