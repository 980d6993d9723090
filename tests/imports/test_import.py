"""`tune import`: own-written configurations of three tools: what is mapped, what is not, what the tool ignores, and the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, write_rows
from tuner.checks import RULES
from tuner.cli import main
from tuner.imports.draft import State
from tuner.imports.read import convert, read_config, recipe_text, which
from tuner.plan import make_plan
from tuner.schema.compose import compose

HERE = ROOT / "tests" / "imports"
FILES = sorted(p for p in HERE.iterdir() if p.suffix in (".yaml", ".sh"))
EXPECTED: dict[str, Any] = yaml.safe_load((HERE / "expected.yml").read_text(encoding="utf-8"))


def told(path: Path) -> dict[str, Any]:
    """What is said of a file, as `expected.yml` holds it."""
    config = read_config(path)
    keys = list(config)
    draft = convert(config, which(config, ""), devices=1)
    text = recipe_text(draft, title="x")
    said = {line.key.partition(".")[0] for line in draft.lines}
    assert set(keys) <= said, "a line of which nothing is said"
    left = sorted({line.key for line in draft.lines if line.state is State.unmapped})
    ignored = {line.key: line.note for line in draft.lines if line.state is State.ignored}
    return {"peer": draft.peer, "unmapped": left, "ignored": ignored, "recipe": yaml.safe_load(text)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_what_becomes_of_each_line(path: Path, project: Path) -> None:
    assert told(path) == EXPECTED[path.name]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_the_recipe_is_short_and_plans(path: Path, project: Path) -> None:
    (project / "data").mkdir()
    for name in ("train", "a", "b"):
        write_rows(project / "data" / f"{name}.json", 20)
    assert main(["import", str(path), "--out", "mine/new.yaml", "--num-devices", "1"]) == 0
    assert len((project / "mine/new.yaml").read_text(encoding="utf-8").splitlines()) <= 20
    assert make_plan(compose("mine/new.yaml", [], rules=RULES)).stages


def test_the_batch_counts_devices(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(HERE / "axolotl-lora.yaml"), "--num-devices=8"]) == 0
    assert "batch_size: 64" in capsys.readouterr().out


def test_losses_that_are_not_here_are_not_called_mapped(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = "model_name_or_path: org/name\ndataset_name: train.jsonl\nbeta: 0.1\nprecompute_ref_log_probs: true\n"
    for loss, why in (("[sigmoid, sft]", "several losses"), ("exo_pair", "no such loss here")):
        (project / "x.yaml").write_text(f"{base}loss_type: {loss}\n", encoding="utf-8")
        assert main(["import", "x.yaml", "--from", "trl"]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if " loss_type: " in line)
        assert line.startswith("not mapped")
        assert why in line
    (project / "x.yaml").write_text(f"{base}loss_type: ipo\n", encoding="utf-8")
    assert main(["import", "x.yaml", "--from", "trl"]) == 0
    assert "loss_type: ipo" in capsys.readouterr().out.partition("defaults:")[2]


def test_what_is_wrong_with_the_recipe_is_told_by_its_line(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "model_name_or_path: org/name\ndataset_name: train.jsonl\nuse_peft: true\nlora_r: -3\nlora_rank: 8\n"
    (project / "x.yaml").write_text(text, encoding="utf-8")
    assert main(["import", "x.yaml", "--from", "trl"]) == 2
    said = capsys.readouterr()
    assert "did you mean `lora_r`?" in said.out
    assert "the recipe, line " in said.err
    assert "r: -3" in said.err
    assert "imported.yaml" not in said.err


def test_a_file_of_nobody_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "x.yaml").write_text("a: 1\n", encoding="utf-8")
    assert main(["import", "x.yaml"]) == 2
    assert "--from" in capsys.readouterr().err
