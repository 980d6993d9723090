"""The command as a person types it: exit codes, messages, speed, and that nothing heavy is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tuner.cli import help_text, main
from tuner.commands import VERBS
from tuner.registry import load


def tune(*args: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python -m tuner …` in a process of its own."""
    variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
    return subprocess.run([sys.executable, "-m", "tuner", *args], capture_output=True, text=True, check=False, env=variables, cwd=cwd)


@pytest.mark.parametrize(
    ("args", "code", "text"),
    [
        (["--help"], 0, "tune recipe=quickstart"),
        ([], 0, "exit codes: 0 ok"),
        (["--version"], 0, "tune 0."),
        (["recipe=quickstart", "dry_run=true"], 0, "steps"),
        (["recipe=quikstart"], 2, "did you mean `quickstart`?"),
        (["recipe=quickstart", "trainer.lr=1"], 2, "did you mean `trainer.learning_rate`?"),
        (["recipe=quickstart", "dry_run=maybe"], 2, "dry_run=true"),
        (["run"], 2, "which recipe?"),
        (["shw"], 2, "did you mean `tune show`?"),
        (["recipe=quickstart", "--jsn"], 2, "did you mean `--json`?"),
        (["recipe=quickstart", "-m", "seed=1,2"], 2, "-m"),
        (["recipe=quickstart", "trainer.learning_rate", "3"], 2, "key=value"),
        (["ls", "modl"], 2, "did you mean `tune ls model`?"),
        (["quickstart"], 2, "did you mean `tune recipe=quickstart`?"),
        (["recipe", "quickstart"], 2, "did you mean `tune recipe=quickstart`?"),
        (["mine.yaml"], 2, "did you mean `tune recipe=mine.yaml`?"),
        (["show", "quickstart"], 2, "`tune show recipe=quickstart`"),
        (["gc", "yes"], 2, "did you mean `--yes`?"),
        (["recipe=quickstart", "dry_run"], 2, "write `dry_run=true`"),
        (["recipe=quickstart", "data=mine.jsonl"], 2, "your own is `data.path=mine.jsonl`"),
        (["recipe=quickstart", "model=org/name"], 2, "your own is `model.id=org/name`"),
        (["explain", "lerning_rate"], 2, "trainer.learning_rate"),
        (["rm", "nothing", "--yes"], 2, "no run called"),
        (["cp", "quickstart", "mine.yaml"], 2, "already there"),
        (["cp", "quickstart", "x.yaml", "--json"], 2, "this verb takes no flags"),
        (["completion", "bash", "--json"], 2, "this verb takes no flags"),
        (["try", "./nix", "hi"], 2, "there is no such folder: ./nix"),
        (["try", "custom", "hi"], 2, "`tune try owner/name`"),
        (["try", "./", "hi"], 2, "there is no model and no run in ./"),
        (["try", "smollm2-135m", "", "--json"], 2, "`--json` needs a prompt"),
        (["recipe=quickstart", "output_dir=/proc/nothing"], 4, "cannot write"),
    ],
    ids=lambda v: " ".join(v) if isinstance(v, list) else str(v),
)
def test_exit_codes_and_messages(args: list[str], code: int, text: str, project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(args) == code
    printed = capfd.readouterr()
    assert text in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert (printed.err == "") == (code == 0)


def test_faults_of_every_kind_come_in_one_go_within_a_second_and_a_half(project: Path) -> None:
    (project / "bad.yaml").write_text("defaults: [{modl: x}]\ndata: {path: train.jsonl}\ntrainer: {lr: 1, batch_size: 0}\n")
    began = time.perf_counter()
    answer = tune("recipe=bad.yaml", "adapter=lorra", "seed=-1", cwd=project)
    assert time.perf_counter() - began < 15  # the promise is 1.5 s on a quiet machine; benchmarks/startup measures it
    assert answer.returncode == 2
    assert answer.stdout == ""
    for where in ("bad.yaml:1", "bad.yaml:3", "adapter=lorra", "seed=-1"):
        assert f"at: {where}" in answer.stderr
    assert "6 problems" in answer.stderr
    assert "Traceback" not in answer.stderr


HEAVY = ("torch", "transformers", "datasets", "trl", "peft", "accelerate", "numpy", "huggingface_hub", "pandas", "jinja2")
LOADED = f"""
import sys
from tuner.cli import main
main(sys.argv[1:])
print([m for m in {HEAVY} if m in sys.modules], file=sys.stderr)
"""
COUNTED = """
import sys
before = set(sys.modules)
from tuner.cli import main
main(sys.argv[1:])
print(len(set(sys.modules) - before), file=sys.stderr)
"""


@pytest.mark.parametrize(
    "args",
    [
        ["recipe=quickstart", "dry_run=true"],
        ["recipe=quickstart", "trainer.lr=1"],
        ["show", "recipe=quickstart"],
        ["ls"],
        ["explain", "trainer.learning_rate"],
        ["completion", "--words", "tune recipe="],
        ["gc"],
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded(args: list[str], project: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(
        [sys.executable, "-c", LOADED, *args], capture_output=True, text=True, check=False, env=environment, cwd=project
    )
    assert answer.stderr.strip().splitlines()[-1] == "[]"


@pytest.mark.parametrize("args", [["--help"], ["--version"], []], ids=str)
def test_help_loads_nothing_but_the_command(args: list[str], project: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run([sys.executable, "-c", COUNTED, *args], capture_output=True, text=True, check=True, env=environment)
    assert int(answer.stderr) <= 5


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_there_and_helps(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    if verb in ("eval", "report", "push", "try", "check"):
        pytest.importorskip(f"tuner.commands.{verb}_")
    assert main([verb, "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"tune {verb}")
    assert callable(load(f"tuner.commands.{verb}_").main)
    assert f"tune {verb}" in help_text()


def test_a_dry_run_as_json_has_the_numbers(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe=mine.yaml", "dry_run=true", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["stages"]) == ["prepare", "baseline", "train", "evaluate", "publish"]
    assert found["stages"]["train"]["needs"] == ["prepare"]
    assert not found["stages"]["train"]["done"]
    assert (found["estimate"]["steps"], found["estimate"]["rows"], found["estimate"]["trainable"]) == (3, 20, 4_884_480)
    assert found["command"][1:3] == ["-m", "tuner.worker"]


def test_a_dry_run_writes_nothing(project: Path) -> None:
    before = {p for p in project.rglob("*") if ".tuner-cache" not in p.parts}
    assert main(["recipe=mine.yaml", "dry_run=true"]) == 0
    assert {p for p in project.rglob("*") if ".tuner-cache" not in p.parts} == before


def test_a_bug_of_ours_is_one_message_and_code_1(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(args: list[str]) -> int:
        raise RuntimeError("our mistake")

    monkeypatch.setattr(load("tuner.commands.gc_"), "main", fail)
    assert main(["gc"]) == 1
    printed = capfd.readouterr().err
    assert "our mistake" in printed
    assert "Traceback" not in printed
    details = Path(printed.split("the details are in ")[1].split(",")[0])
    assert "RuntimeError: our mistake" in details.read_text()
    details.unlink()
    with pytest.raises(RuntimeError, match="our mistake"):
        main(["gc", "--debug"])


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(load("tuner.commands.gc_"), "main", interrupt)
    assert main(["gc"]) == 130


@pytest.mark.parametrize("args", ["show recipe=mine.yaml", "ls --json", "recipe=mine.yaml dry_run=true", "cp mine.yaml x.yaml"])
def test_a_reader_that_never_reads_is_no_error(args: str, project: Path) -> None:
    line = f'(sleep 0.1; exec "{sys.executable}" -m tuner {args}) | true; echo ${{PIPESTATUS[0]}}'
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    answer = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=environment, cwd=project)
    assert (answer.stdout, answer.stderr) == ("0\n", "")


def test_a_reader_that_stops_reading_is_no_error(project: Path) -> None:
    line = f'"{sys.executable}" -m tuner schema | head -n 1; echo ${{PIPESTATUS[0]}}'
    answer = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=project
    )
    assert answer.stdout.splitlines() == ["{", "0"]
    assert answer.stderr == ""
