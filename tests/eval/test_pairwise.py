"""`eval.judge`: a judge chooses between the answers of base and tuned, in both orders; what cannot be judged is told before training."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.judging import judge
from tests.lab import Lab, make_lab
from tests.tasks import labs
from tuner import cli
from tuner.errors import TuneError
from tuner.eval.pairwise import NAME, judged, ready
from tuner.eval.scores import Scored
from tuner.runs import read_json
from tuner.schema.eval import Judge


def answers(asked: dict[str, Any]) -> tuple[str, str]:
    """A and B, as the judge is shown them."""
    shown = asked["messages"][-1]["content"]
    found = re.search(r"Answer A: (.*)\n\nAnswer B: (.*)", shown, re.DOTALL)
    assert found, shown
    return found.group(1), found.group(2)


def longer(asked: dict[str, Any]) -> str:
    """Likes what is longer."""
    a, b = answers(asked)
    return "tie" if len(a) == len(b) else "**A**" if len(a) > len(b) else "Answer b."


def pairs(*texts: tuple[str, str]) -> tuple[list[Scored], list[Scored]]:
    def rows(side: int) -> list[Scored]:
        prompts = [[{"role": "user", "content": f"q{i}"}] for i in range(len(texts))]
        return [Scored(prompt=prompt, reference="r", answer=text[side]) for prompt, text in zip(prompts, texts, strict=True)]

    return rows(0), rows(1)


def shares(rows: list[Scored]) -> list[float]:
    return [row.scores[NAME] for row in rows]


def test_the_better_answer_is_named_in_both_orders() -> None:
    base, tuned = pairs(("a", "longer"), ("longer", "b"), ("same", "same "), ("left", "four"))
    with judge(longer) as (url, asked):
        told = judged(base, tuned, Judge(url=url, model="j"), tick=lambda done: None)
    assert shares(tuned) == [1.0, 0.0, 0.5, 0.5]
    assert shares(base) == [0.0, 1.0, 0.5, 0.5]
    assert told == {"rows": 4, "asked": 3, "consistent": 1.0, "unread": 0}
    assert len(asked) == 6, "each pair twice, alike ones not at all"
    assert {("a", "longer"), ("longer", "a")} < set(map(answers, asked))
    assert all("q" in one["messages"][-1]["content"] and "A right answer: r" in one["messages"][-1]["content"] for one in asked)


def test_a_judge_that_likes_what_stands_first_decides_nothing() -> None:
    base, tuned = pairs(("a", "longer"), ("longer", "b"))
    with judge(lambda asked: "A") as (url, _):
        told = judged(base, tuned, Judge(url=url, model="j"), tick=lambda done: None)
    assert shares(tuned) == [0.5, 0.5]
    assert told["consistent"] == 0.0


def test_what_names_none_is_a_draw_and_counted() -> None:
    base, tuned = pairs(("a", "longer"))
    with judge(lambda asked: "Both have their merits") as (url, _):
        assert judged(base, tuned, Judge(url=url, model="j"), tick=lambda done: None)["unread"] == 2
    assert shares(tuned) == [0.5]


def test_a_limit() -> None:
    base, tuned = pairs(("a", "bb"), ("a", "bb"))
    with judge(longer) as (url, asked):
        judged(base, tuned, Judge(url=url, model="j", limit=1), tick=lambda done: None)
    assert (len(asked), NAME in tuned[1].scores) == (2, False)


def tune(lab: Lab, *args: str) -> int:
    with contextlib.chdir(lab.folder):
        return cli.main([*args])


def test_a_run_is_judged_and_its_gate_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-of-the-judge")
    lab = make_lab(tmp_path)
    with judge(lambda asked: longer(asked) if "Answer A" in asked["messages"][-1]["content"] else "A") as (url, asked):
        given = [f"eval.judge.url={url}", "eval.judge.model=j", "eval.max_new_tokens=8", "adapter=full", "trainer.learning_rate=0.01"]
        assert tune(lab, "recipe=small", "launcher=inline", *given, "eval.gate=['judge_win_rate >= 0']") == 0
    (run,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(run / "metrics.json")
    assert found["base"][NAME] + found["tuned"][NAME] == pytest.approx(1)
    lines = [json.loads(line) for line in next((run / "eval").glob("*/rows.jsonl")).read_text().splitlines()]
    expected = [0.5 if len(r["base"]) == len(r["tuned"]) else float(len(r["tuned"]) > len(r["base"])) for r in lines]
    assert [row["tuned_scores"][NAME] for row in lines] == expected
    assert found["judge"]["rows"] == 8
    assert len(asked) == 1 + 2 * found["judge"]["asked"], "it is asked once before training"
    assert "preferred by the judge" in (run / "report.html").read_text()
    said = capfd.readouterr()
    kept = "".join(
        path.read_text(errors="ignore") for path in lab.folder.rglob("*") if path.suffix in (".json", ".jsonl", ".md", ".html", ".yaml")
    )
    assert "sk-secret" not in said.out + said.err + kept


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["eval.judge.url=localhost", "eval.judge.model=j"], "`eval.judge.url` is no address"),
        (["eval.judge.url=http://a/v1", "eval.judge.model=j", "eval.generate=false"], "writes none"),
        (
            ["task=classify", f"model.id={labs.encoder()}", "eval.judge.url=http://a/v1", "eval.judge.model=j"],
            "has no use for `eval.judge`",
        ),
    ],
)
def test_what_cannot_be_judged(overrides: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(make_lab(tmp_path), "recipe=small", "dry_run=true", *overrides) == 2
    assert said in capsys.readouterr().err


def test_a_judge_that_is_not_there_is_told_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TuneError, match="the judge gave no grade"):
        ready(Judge(url="http://127.0.0.1:9/v1", model="j"))
    given = ["eval.judge.url=http://127.0.0.1:9/v1", "eval.judge.model=j"]
    assert tune(make_lab(tmp_path), "recipe=small", "launcher=inline", *given) == 4
    assert "train …" not in capsys.readouterr().out
