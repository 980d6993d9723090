"""`tune cp`: the copy runs as the original does, keeps its comments, and overwrites nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.conftest import ROOT, write_rows
from tuner.cli import main
from tuner.commands import cp_
from tuner.plan import make_plan
from tuner.schema.compose import compose
from tuner.schema.documents import find_recipe


def test_the_copy_is_the_same_recipe(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "quickstart", "tickets.yaml"]) == 0
    assert "next: edit it, look with `tune recipe=tickets.yaml dry_run=true`" in capsys.readouterr().out
    assert make_plan(compose("tickets.yaml", ["name=quickstart"])).stages == make_plan(compose("quickstart", [])).stages


def test_comments_stay_and_speak_of_the_copy(project: Path) -> None:
    main(["cp", "quickstart", "tickets.yaml"])
    text = (project / "tickets.yaml").read_text(encoding="utf-8")
    assert text.startswith("# quickstart — customer messages")
    assert "# run: tune recipe=tickets.yaml      look first: tune recipe=tickets.yaml dry_run=true" in text


def test_an_editor_line_that_would_lead_nowhere_is_dropped_and_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["cp", "quickstart", "tickets.yaml"])
    assert "yaml-language-server" not in (project / "tickets.yaml").read_text(encoding="utf-8")
    assert "tune schema recipe.schema.json" in capsys.readouterr().err


def test_an_editor_line_within_the_checkout_still_leads_to_the_schema() -> None:
    source, target = find_recipe("quickstart"), ROOT / "recipes/sub/deep/mine.yaml"
    first = cp_._lines(source, "quickstart", target, [])[0]
    assert first == "# yaml-language-server: $schema=../../../recipe.schema.json\n"


def test_nothing_is_overwritten(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "tickets.yaml").write_text("mine")
    assert main(["cp", "quickstart", "tickets.yaml"]) == 2
    assert (project / "tickets.yaml").read_text() == "mine"
    assert "overwrites nothing" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "text"), [(["quickstart"], "tune cp RECIPE FILE"), (["quickstart", "x"], "write `x.yaml`"), ([], "quickstart")]
)
def test_what_cp_needs(args: list[str], text: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", *args]) == 2
    assert text in capsys.readouterr().err


def test_into_a_folder(project: Path) -> None:
    (project / "recipes").mkdir()
    assert main(["cp", "quickstart", "recipes"]) == 0
    assert (project / "recipes/quickstart.yaml").is_file()


def test_data_beside_the_original_is_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "recipes/team").mkdir(parents=True)
    (project / "recipes/team/x.yaml").write_text("# x — ours\ndefaults: [{model: smollm2-135m}]\ndata: {path: rows.jsonl}\n")
    write_rows(project / "recipes/team/rows.jsonl", 3)
    assert main(["cp", "team/x", "y.yaml"]) == 0
    said = capsys.readouterr().err
    assert f"`data.path: rows.jsonl` lies beside the original, not beside the copy: write `{project / 'recipes/team/rows.jsonl'}`" in said
    assert main(["cp", "team/x", "recipes/team/z.yaml"]) == 0
    assert capsys.readouterr().err == ""


def test_a_copy_that_cannot_be_written(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "file").write_text("")
    assert main(["cp", "quickstart", f"file{os.sep}x.yaml"]) == 4
    assert "cannot write" in capsys.readouterr().err


def test_a_name_with_spaces_is_quoted_where_it_is_typed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cp", "quickstart", "a b/c.yaml"]) == 0
    assert "run with `tune 'recipe=a b/c.yaml'`" in capsys.readouterr().out
    assert "# run: tune 'recipe=a b/c.yaml' " in (project / "a b/c.yaml").read_text(encoding="utf-8")
