"""`tune rm` and `tune gc` delete what they say, nothing else, and nothing that is in use."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tuner.cli import main
from tuner.commands import gc_, rm_
from tuner.plan import Plan, make_plan
from tuner.runs import lock, mark_done, write_text
from tuner.schema.compose import compose

pytestmark = pytest.mark.usefixtures("project")


def make_run(*overrides: str, finished: bool = True) -> Plan:
    plan = make_plan(compose("mine.yaml", [*overrides]))
    plan.write(Path(plan.folder) / "plan.json")
    for stage in plan.stages:
        if finished or stage.name == "prepare":
            mark_done(Path(stage.folder), stage.name, stage.key, {})
    write_text(Path(plan.folder) / "checkpoints/step-3/model.safetensors", "x" * 10_000)
    return plan


def found(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    capsys.readouterr()
    assert main(["gc", "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


def reasons(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    return {os.path.relpath(i["path"], "outputs"): i["why"] for i in found(capsys)["items"]}


def test_rm_deletes_a_run_and_leaves_what_is_shared(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    assert main(["rm", "mine", "--yes"]) == 0
    text = capsys.readouterr().out
    assert f"mine@{plan.stage('train').key}: finished, " in text
    assert "kB in outputs/mine/" in text
    assert not Path("outputs/mine").exists()
    assert {p.name.split("-")[0] for p in Path("outputs/.cache").iterdir()} == {"prepare", "baseline"}


def test_rm_leaves_other_runs_of_the_name(capsys: pytest.CaptureFixture[str]) -> None:
    keep = make_run("seed=1")
    gone = make_run("seed=2")
    assert main(["rm", f"mine@{gone.stage('train').key}", "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"]["folder"] == gone.folder
    assert (Path(keep.folder) / "plan.json").is_file()


def test_rm_asks_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda text: "n")
    assert rm_.main(["mine"]) == 0
    assert "nothing was deleted" in capsys.readouterr().out
    assert Path(plan.folder).is_dir()
    monkeypatch.setattr("builtins.input", lambda text: "Y")
    assert rm_.main(["mine"]) == 0
    assert not Path(plan.folder).exists()


def test_rm_without_a_terminal_needs_yes(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    assert main(["rm", "mine"]) == 2
    assert "--yes" in capsys.readouterr().err
    assert Path(plan.folder).is_dir()


def test_rm_refuses_a_run_in_use(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    with lock(Path(plan.folder)):
        assert main(["rm", "mine", "--yes"]) == 4
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert Path(plan.folder).is_dir()


def test_gc_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gc"]) == 0
    assert "nothing to free in outputs" in capsys.readouterr().out


def test_gc_names_checkpoints_of_finished_runs_only(capsys: pytest.CaptureFixture[str]) -> None:
    done = make_run()
    make_run("seed=3", finished=False)
    assert reasons(capsys) == {f"mine/{done.stage('train').key}/checkpoints": "checkpoints of a finished run"}


def test_gc_only_prints_until_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    assert main(["gc"]) == 0
    assert "can be freed: 10.0 kB (`tune gc --yes` deletes it)" in capsys.readouterr().out
    assert (Path(plan.folder) / "checkpoints").is_dir()
    answer = found(capsys, "--yes")
    assert (answer["size_bytes"], answer["deleted"]) == (10_000, True)
    assert not (Path(plan.folder) / "checkpoints").exists()
    assert (Path(plan.folder) / "plan.json").is_file()
    assert found(capsys)["items"] == []


def test_gc_finds_shared_results_that_no_plan_refers_to(capsys: pytest.CaptureFixture[str]) -> None:
    gone = make_run("task.max_length=512")
    keep = make_run(finished=False)
    main(["rm", f"mine@{gone.stage('train').key}", "--yes"])
    orphans = {f".cache/{s}-{gone.stage(s).key}": "no run refers to it" for s in ("prepare", "baseline")}
    assert reasons(capsys) == orphans
    found(capsys, "--yes")
    assert [p.name for p in Path("outputs/.cache").iterdir()] == [f"prepare-{keep.stage('prepare').key}"]


def test_gc_keeps_what_a_plan_that_only_waits_will_need(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(compose("mine.yaml", []))
    plan.write(Path(plan.folder) / "plans" / "x.json")
    mark_done(Path(plan.stage("prepare").folder), "prepare", plan.stage("prepare").key, {})
    assert reasons(capsys) == {}


def test_gc_never_touches_a_run_in_use(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    plan = make_run()
    waste = gc_.find_waste(Path("outputs"))
    with lock(Path(plan.folder)):
        assert found(capsys, "--yes")["items"] == []
        monkeypatch.setattr(gc_, "find_waste", lambda folder: waste)  # the run was started after it was looked at
        found(capsys, "--yes")
    assert (Path(plan.folder) / "checkpoints").is_dir()


def test_gc_deletes_old_temporary_files_and_leaves_young_ones(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run(finished=False)
    old, young = Path(plan.folder) / ".metrics.json.1.tmp", Path(plan.folder) / ".plan.json.2.tmp"
    for path in (old, young):
        path.write_text("x")
    os.utime(old, (time.time() - 7200,) * 2)
    found(capsys, "--yes")
    assert not old.exists()
    assert young.exists()


def test_gc_finds_what_an_interrupted_rm_left(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    (Path(plan.folder) / "plan.json").unlink()
    assert reasons(capsys)[f"mine/{plan.stage('train').key}"] == "remains of a deleted run"


def test_gc_deletes_nothing_when_a_plan_cannot_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    (Path(plan.folder) / "plan.json").write_text("{")
    assert main(["gc", "--yes"]) == 4
    assert (Path(plan.folder) / "checkpoints").is_dir()
