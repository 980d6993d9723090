"""Shell completion: what can follow a line, and the bash script in a real bash."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tuner.cli import main
from tuner.commands.completion_ import complete
from tuner.schema.documents import list_options

pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tune re", ["recipe=", "report"]),
        ("tune recipe=quick", ["recipe=quickstart"]),
        ("tune recipe=quickstart adap", ["adapter.", "adapter="]),
        ("tune recipe=quickstart adapter=", [f"adapter={o}" for o in list_options("adapter")]),
        ("tune recipe=quickstart trainer.lea", ["trainer.learning_rate="]),
        ("tune recipe=quickstart trainer.load_best_model_at_end=", [f"trainer.load_best_model_at_end={v}" for v in ("false", "true")]),
        ("tune show recipe=quickstart trainer.precision=b", ["trainer.precision=bf16"]),
        ("tune recipe=quickstart dry_run=", ["dry_run=false", "dry_run=true"]),
        ("tune ls ru", ["runs"]),
        ("tune explain trainer.lea", ["trainer.learning_rate"]),
        ("tune cp quick", ["quickstart"]),
        ("tune doctor --j", ["--json"]),
        ("tune completion ", ["bash", "fish", "zsh"]),
        ("tune recipe=nothing_like_it", []),
    ],
)
def test_words_that_can_follow(line: str, words: list[str]) -> None:
    assert complete(line) == words


def test_an_empty_line_shows_the_verbs_and_not_every_key() -> None:
    words = complete("tune ")
    assert {"ls", "show", "recipe="} <= set(words)
    assert not any("." in w for w in words)


def test_own_recipes_and_runs_are_offered(project: Path) -> None:
    (project / "recipes").mkdir()
    (project / "recipes/mine.yaml").write_text("seed: 1\n")
    (project / "outputs/tickets/0123").mkdir(parents=True)
    (project / "outputs/tickets/0123/plan.json").write_text("{}")
    assert complete("tune recipe=m") == ["recipe=mine"]
    assert complete("tune rm t") == ["tickets"]
    assert complete("tune rm tickets t") == []
    assert complete("tune compare tickets t") == ["tickets"]


@pytest.fixture
def tune_command(tmp_path: Path) -> Path:
    """A folder with an executable `tune`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "tune").write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m tuner "$@"\n')
    (folder / "tune").chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("line", "words", "replies"),
    [
        ("tune recipe=qu", ["tune", "recipe", "=", "qu"], ["quickstart"]),  # bash cuts words at =
        ("tune hardware=dd", ["tune", "hardware", "=", "dd"], ["ddp"]),
        ("tune recipe=quickstart trainer.lea", ["tune", "recipe", "=", "quickstart", "trainer.lea"], ["trainer.learning_rate="]),
        ("tune sho", ["tune", "sho"], ["show"]),
    ],
)
def test_the_bash_script(line: str, words: list[str], replies: list[str], tune_command: Path) -> None:
    listed = " ".join(f"'{w}'" for w in words)
    script = (
        f'PATH="{tune_command}:$PATH"; eval "$(tune completion bash)"; complete -p tune >&2\n'
        f"COMP_LINE='{line}' COMP_POINT={len(line)} COMP_WORDS=({listed}) COMP_CWORD={len(words) - 1}\n"
        "COMP_LINE='" + line + "'; COMP_POINT=" + str(len(line)) + "; _tune; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    assert "-F _tune tune" in answer.stderr
    assert answer.stdout.split() == replies


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_scripts_are_valid(shell: str, tune_command: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)
    if shell == "fish":
        line = f"set PATH {tune_command} $PATH; source {tmp_path / 'script'}; complete -C 'tune recipe=qu'"
        answer = subprocess.run(["fish", "-c", line], capture_output=True, text=True, check=True)
        assert answer.stdout.split() == ["recipe=quickstart"]


def test_an_unknown_shell(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "zhs"]) == 2
    assert "did you mean `zsh`?" in capsys.readouterr().err
