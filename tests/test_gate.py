"""`eval.gate`: rules are read as written, a result that does not meet them is not published, and the command says so with code 3."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.lab import make_lab
from tuner.checks import RULES
from tuner.cli import main
from tuner.errors import GATE, TuneError
from tuner.gate import is_rule, judged
from tuner.schema.compose import compose

MEASURED: dict[str, Any] = {
    "base": {"exact_match": 0.25, "loss": 2.0, "field/the intent": 0.5, "ndcg@10": 0.4},
    "tuned": {"exact_match": 0.5, "loss": 1.0, "field/the intent": math.nan, "ndcg@10": 0.4},
    "verdicts": {"exact_match": "better", "loss": "better", "ndcg@10": "cannot tell"},
}


def gate(*rules: str) -> str:
    """As it is typed."""
    return f"eval.gate={json.dumps(rules)}"


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("exact_match > base", True),
        ("exact_match > base + 0.25", False),
        ("exact_match >= base + 0.25", True),
        ("exact_match>=base+.25", True),
        ("exact_match >= base * 2", True),
        ("exact_match > base * 2", False),
        ("exact_match > base - 1e-3", True),
        ("exact_match < 0.5", False),
        ("exact_match <= 5e-1", True),
        ("loss < base * 0.6", True),
        ("loss < base - 1", False),
        ("loss > -1", True),
        ("ndcg@10 >= base", True),
        ("ndcg@10 is better", False),
        ("ndcg@10 is not worse", True),
        ("exact_match is better", True),
        ("field/the intent > 0", False),  # no number
        ("field/the intent is not worse", False),  # not tested
        ("f1 > 0", False),  # not measured
    ],
)
def test_rules(rule: str, holds: bool) -> None:
    assert is_rule(rule)
    (found,) = judged([rule], MEASURED)
    assert (found.rule, found.holds) == (rule, holds)


@pytest.mark.parametrize(
    "rule", ["", "exact_match", "exact_match > ", "> 0.5", "exact_match == 1", "loss < base / 2", "loss < 1 + base", "f1 is worse"]
)
def test_what_is_no_rule_is_told_before_anything_runs(rule: str, project: Path) -> None:
    assert not is_rule(rule)
    with pytest.raises(TuneError) as told:
        compose("./mine.yaml", [gate(rule)], rules=RULES)
    assert [problem.where for problem in told.value.problems] == [gate(rule)]


def test_nothing_is_judged_where_nothing_is_measured(project: Path) -> None:
    with pytest.raises(TuneError, match=r"`eval\.enabled` is false"):
        compose("./mine.yaml", [gate("loss < base"), "eval=none"], rules=RULES)


def test_a_misspelt_measurement_holds_nothing_and_is_told() -> None:
    (found,) = judged(["exactmatch > 0"], MEASURED)
    assert (found.holds, found.said) == (False, "exactmatch was not measured; did you mean `exact_match`?")


def test_a_result_that_fails_is_not_published(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained and measured once; the gate is judged again by every command, without measuring anew."""
    lab = make_lab(tmp_path)
    monkeypatch.chdir(lab.folder)
    command = ["recipe=small", "launcher=inline", "trainer.max_steps=2", "eval.generate=false"]
    assert main([*command, gate("loss < base - 100", "loss > 0")]) == GATE
    told = capsys.readouterr()
    assert "gate: FAILED  loss < base - 100  (tuned" in told.out
    assert "gate: passed  loss > 0" in told.out
    assert "`loss < base - 100` does not hold" in " ".join(told.err.split())
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    assert (folder / "metrics.json").is_file()
    assert not (folder / "published").exists()
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<span class="state worse">fails</span>') == report.count('<span class="state better">holds</span>') == 1
    stamp = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert main(["push", "small"]) == GATE
    assert main(["eval", "small", gate("loss < base - 50")]) == GATE
    assert not (folder / "published").exists()
    capsys.readouterr()
    assert main([*command, gate("loss > 0")]) == 0
    assert "baseline …" not in (passed := capsys.readouterr().out)
    assert "publish …" in passed
    assert "What had to hold before it was published: `loss > 0` (tuned" in (folder / "published" / "README.md").read_text(encoding="utf-8")
    assert main([*command, gate("loss < 0")]) == GATE  # published before; but asked now
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == stamp
