"""`tune cache`: what is shared between runs is listed with who uses it, and deleted when asked; held-out rows are kept."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.test_tidying import make_run
from tests.lab import make_lab
from tuner.cli import main
from tuner.data.kept import keep, kept
from tuner.data.load import Rows, read_rows
from tuner.data.splits import held_out
from tuner.runs import lock, mark_done
from tuner.schema.data import Data, Format


def listed(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, Any]]:
    capsys.readouterr()
    assert main(["cache", "ls", "--json"]) == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


@pytest.mark.usefixtures("project")
def test_the_cache_is_listed_with_the_runs_that_use_it(capsys: pytest.CaptureFixture[str]) -> None:
    one, other = make_run("trainer.learning_rate=1e-3"), make_run("trainer.learning_rate=2e-3")
    prepare = one.stage("prepare")
    mark_done(Path(prepare.folder), "prepare", prepare.key, {"rows": 12, "tokens": 3456})
    found = listed(capsys)
    assert set(found) == {f"{name}-{one.stage(name).key}" for name in ("prepare", "baseline")}
    entry = found[f"prepare-{prepare.key}"]
    assert (entry["state"], entry["rows"], entry["tokens"]) == ("whole", 12, 3456)
    assert sorted(entry["runs"]) == sorted(f"mine@{plan.stage('train').key}" for plan in (one, other))
    assert main(["cache"]) == 0
    text = capsys.readouterr().out
    assert "3,456" in text
    assert "and 1 more" in text


@pytest.mark.usefixtures("project")
def test_what_no_run_uses_is_deleted_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    keep_it, gone = make_run("seed=1"), make_run("seed=2", "task.max_length=99")
    assert main(["rm", f"mine@{gone.stage('train').key}", "--yes"]) == 0
    assert main(["cache", "rm", "--unused"]) == 2, "not without --yes, where nobody can be asked"
    assert main(["cache", "rm", "--unused", "--yes"]) == 0
    assert f"prepare-{keep_it.stage('prepare').key}" in listed(capsys)
    assert f"prepare-{gone.stage('prepare').key}" not in listed(capsys)


@pytest.mark.usefixtures("project")
def test_what_a_waiting_or_an_unreadable_plan_may_need_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    prepare = Path(plan.stage("prepare").folder)
    (Path(plan.folder) / "plans").mkdir()
    (Path(plan.folder) / "plan.json").rename(Path(plan.folder) / "plans" / "next.json")
    assert main(["cache", "rm", "--unused", "--yes"]) == 0
    assert prepare.is_dir()
    (Path(plan.folder) / "plan.json").write_text("{")
    assert main(["cache", "rm", "--unused", "--yes"]) == 4
    assert prepare.is_dir()


@pytest.mark.usefixtures("project")
def test_one_is_deleted_by_its_name_or_the_beginning_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_run()
    key = plan.stage("prepare").key
    for wrong, what in (("prepare-ffffff", "nothing is cached as"), ("", "which?")):
        assert main(["cache", "rm", *([wrong] if wrong else []), "--yes"]) == 2
        assert what in capsys.readouterr().err
    with lock(Path(plan.stage("prepare").folder)):
        assert main(["cache", "rm", key, "--yes"]) != 0, "somebody makes it just now"
    assert main(["cache", "rm", f"prepare-{key[:5]}", "--yes"]) == 0
    assert not Path(plan.stage("prepare").folder).exists()
    assert main(["cache", "mv"]) == 2


def test_kept_rows_are_the_same_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "line\u2028end", "number": i, "deep": {"list": [1.5, None, True, "ß"]}} for i in range(5)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    read = Rows.joined([read_rows([str(path)], Data()).take([3, 1]), read_rows([str(path)], Data())])
    assert keep(read, tmp_path)
    again = kept(tmp_path)
    assert again is not None
    assert list(again) == list(read)
    assert [again.place(i) for i in range(len(again))] == [read.place(i) for i in range(len(read))]
    assert list(again.part) == list(read.part)


@pytest.mark.parametrize("value", [b"\x89PNG", datetime.date(2026, 1, 1), (1, 2), float("nan"), {1: "a"}])
def test_rows_that_json_would_change_are_not_kept(tmp_path: Path, value: object) -> None:
    rows = Rows()
    rows.append({"value": value}, ("a.parquet", 1, Format.parquet))
    assert keep(rows, tmp_path) == []
    assert kept(tmp_path) is None


def test_a_later_run_does_not_read_all_rows_for_its_held_out_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = make_lab(tmp_path / "p")
    recipe = lab.folder / "recipes" / "small.yaml"
    recipe.write_text(recipe.read_text().replace(f", eval_path: {lab.folder}/eval.jsonl", ""))
    small = ("trainer.max_steps=1", "hub=none", "eval.generate=false")
    assert lab.tune("recipe=small", *small).returncode == 0
    run = lab.run(*small, "trainer.learning_rate=5e-3")
    assert {s.name for s in run.plan.stages if s.done} == {"prepare", "baseline"}
    first = held_out(lab.run(*small, "seed=3"))
    monkeypatch.setattr("tuner.data.splits.read_rows", lambda *_, **__: pytest.fail("read again"))
    assert len(held_out(run)) == len(first) == 4
