"""`tune compare RUN RUN …`: intervals between runs, what differs, what was trained; and what cannot be compared."""

from __future__ import annotations

import json
import math
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.eval.test_report import ATTACK, CHROMIUM, Page, sticks_out
from tests.lab import environ, make_lab
from tests.synthetic import metrics, write_run
from tuner.cli import main
from tuner.plan import make_plan, read_plan
from tuner.runs import mark_done, read_json, write_json
from tuner.schema.compose import compose

Row = dict[str, Any]


def told(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main(["compare", *args]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def data(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    return json.loads(told(capsys, *args, "--json"))


def change_rows(run: Path, change: Callable[[int, Row], Row]) -> None:
    """Give each row of a run's evaluation another content, and its metrics the means of those."""
    path = next((run / "eval").glob("*/rows.jsonl"))
    rows = [change(i, json.loads(line)) for i, line in enumerate(path.read_text(encoding="utf-8").splitlines())]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_json(run / "metrics.json", metrics(rows))


def scored(row: Row, **scores: float) -> Row:
    return row | {"tuned_scores": row["tuned_scores"] | scores}


def right(row: Row, is_right: bool) -> Row:
    return scored(row, exact_match=float(is_right)) | {"tuned": row["reference"] if is_right else "something else"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path, Path]:
    """Three runs of one recipe: `two` is right three rows out of four, `three` always wrong where `one` is right four out of five."""
    monkeypatch.chdir(tmp_path)
    one, two, three = (
        write_run(tmp_path, f"name={name}", *keys)
        for name, *keys in (
            ("one",),
            ("two", "trainer.learning_rate=1e-4", "adapter=qlora"),
            ("three", "eval.temperature=0.7", "adapter.r=4"),
        )
    )
    change_rows(one, lambda i, row: right(row, i % 5 != 0))
    change_rows(two, lambda i, row: right(row, i % 4 != 0))
    change_rows(three, lambda i, row: right(row, False))
    return one, two, three


def test_the_interval_is_that_of_the_rows(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    metric = data(capsys, "one", "two", "three")["metrics"]["exact_match"]
    pairs = [float(i % 4 != 0) - float(i % 5 != 0) for i in range(126)]
    error = 1.96 * statistics.pstdev(pairs) / math.sqrt(126)
    nothing, two, three = metric["against_first"]
    assert nothing is None
    assert two["change"] == pytest.approx(statistics.fmean(pairs))
    assert two["interval"] == pytest.approx([two["change"] - error, two["change"] + error], abs=0.015)
    assert two["verdict"] == "cannot tell"
    assert (three["verdict"], three["interval"][1] < -0.7) == ("worse", True)
    assert data(capsys, "three", "one")["metrics"]["exact_match"]["against_first"][1]["verdict"] == "better"


def test_the_base_is_told_once_where_it_is_the_same(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.split() for line in told(capsys, "one", "two").splitlines()]
    assert lines[0][:3] == ["held-out", "rows:", "126"]
    assert lines[1][:4] == ["exact_match", "one", "0.020", "0.794"]
    assert lines[2][:3] == ["two", "0.746", "-0.048"]
    assert lines[2][-2:] == ["cannot", "tell"]
    found = data(capsys, "one", "three")  # sampled, and so is the base
    assert (found["same_base"], found["metrics"]["exact_match"]["base"]) == (False, [0.02, 0.02])
    text = told(capsys, "one", "three")
    assert text.splitlines()[2].split()[:3] == ["three", "0.020", "0.000"]
    assert "three was measured with other settings than one (eval.temperature)" in text


def test_keys_that_differ(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    keys = data(capsys, "one", "two")["keys"]
    assert keys == {"adapter": ["lora", "qlora"], "trainer.learning_rate": [0.001, 0.0001]}
    assert data(capsys, "one", "three")["keys"] == {"adapter.r": [16, 4], "eval.temperature": [0.0, 0.7]}
    assert "trainer.learning_rate  0.001  0.0001" in told(capsys, "one", "two")


def test_a_file_of_the_same_name_with_other_rows_differs(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def finished(name: str, *keys: str) -> None:
        plan = make_plan(compose("mine.yaml", [f"name={name}", *keys]))
        plan.write(Path(plan.folder) / "plan.json")
        place = Path(plan.folder) / "eval" / plan.stage("evaluate").key
        row = {"prompt": "q", "reference": "a", "tuned": "a", "base_scores": {}, "tuned_scores": {"exact_match": 1.0}}
        place.mkdir(parents=True)
        (place / "rows.jsonl").write_text(json.dumps(row) + "\n")
        write_json(Path(plan.folder) / "metrics.json", {"base": {"exact_match": 0.0}, "tuned": {"exact_match": 1.0}, "rows": 1})
        for stage in plan.stages:
            mark_done(Path(stage.folder), stage.name, stage.key, {})

    finished("one")
    shutil.copy("train.jsonl", "same.jsonl")
    finished("moved", "data.path=same.jsonl")
    with (project / "train.jsonl").open("a") as stream:
        stream.write('{"prompt": "one more", "completion": "row"}\n')
    finished("more")
    assert data(capsys, "one", "moved")["keys"] == {}
    assert "no recipe key differs" in told(capsys, "one", "moved")
    before, after = data(capsys, "one", "more")["keys"]["data.path"]
    assert before.startswith("train.jsonl (")
    assert after.startswith("train.jsonl (")
    assert before != after


def test_other_rows_give_no_verdict(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    change_rows(runs[1], lambda i, row: row | ({"reference": "{}"} if i == 7 else {}))
    found = data(capsys, "one", "two", "three")
    assert [run["same_rows"] for run in found["runs"]] == [True, False, True]
    assert "interval" not in found["metrics"]["exact_match"]["against_first"][1]
    assert "interval" in found["metrics"]["exact_match"]["against_first"][2]
    text = told(capsys, "one", "two")
    assert "two was measured on other held-out rows than one: no verdicts" in text
    assert "cannot tell" not in text
    assert "other rows" in text


def test_loss_is_tested_where_its_sums_are_kept_and_are_its_own(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert data(capsys, "one", "two")["metrics"]["loss"]["against_first"][1]["verdict"] == "not tested"
    for run, mean in ((runs[0], 0.061), (runs[1], 0.041)):
        change_rows(run, lambda i, row, mean=mean: row | {"tuned_loss": [mean * 10 + (0.05 if i % 2 else -0.05), 10]})  # type: ignore[misc]
    found = read_json(runs[1] / "metrics.json")
    write_json(runs[1] / "metrics.json", found | {"tuned": found["tuned"] | {"loss": 0.041, "perplexity": 99.0}})
    compared = data(capsys, "one", "two")
    loss = compared["metrics"]["loss"]["against_first"][1]
    assert loss["interval"] == pytest.approx([-0.02, -0.02])  # of the same rows: that some are harder than others cancels out
    assert loss["verdict"] == "better"
    assert compared["metrics"]["perplexity"]["against_first"][1]["verdict"] == "not tested"  # 99 is not what the sums give
    assert any(note.startswith("not tested: perplexity (") for note in compared["notes"])
    change_rows(runs[1], lambda i, row: row | {"tuned_loss": [0.61, 10 if i else 11]})
    assert data(capsys, "one", "two")["metrics"]["loss"]["against_first"][1]["verdict"] == "not tested"  # of other tokens


def test_a_pattern_of_its_own_is_another_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, pattern in (("one", "a"), ("two", "b"), ("three", "a")):
        run = write_run(tmp_path, f"name={name}", "eval.metrics=[regex,exact_match]", f"eval.pattern={pattern}")
        change_rows(run, lambda i, row: row | {side: row[side] | {"regex": 1.0} for side in ("base_scores", "tuned_scores")})
        found = read_json(run / "metrics.json")
        write_json(run / "metrics.json", found | {"base": found["base"] | {"regex": 1.0}})
    _, two, three = data(capsys, "one", "two", "three")["metrics"]["regex"]["against_first"]
    assert (two["verdict"], three["verdict"]) == ("not tested", "cannot tell")


def test_what_one_run_alone_measured(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    found = read_json(runs[1] / "metrics.json")
    for side in ("base", "tuned"):
        found[side]["general_loss"] = 2.5
    write_json(runs[1] / "metrics.json", found)
    metric = data(capsys, "one", "two")["metrics"]["general_loss"]
    assert metric == {"lower_is_better": True, "base": [None, 2.5], "tuned": [None, 2.5], "against_first": [None, None]}
    (line,) = [line.split() for line in told(capsys, "one", "two").splitlines() if line.startswith("general_loss")]
    assert line == ["general_loss", "one", "–", "–"]


def test_time_steps_and_speed(runs: tuple[Path, ...], capsys: pytest.CaptureFixture[str]) -> None:
    stage = read_plan(runs[1] / "plan.json").stage("train")
    mark_done(runs[1], "train", stage.key, {"seconds": 272.0, "steps": 56, "tokens": 88_480, "trainable": 4_884_480})
    with (runs[1] / "train_log.jsonl").open("a") as stream:
        stream.write('{"step": 56, "loss": 0.1, "tokens": 88480, "time_s": 44.24}\n')
    one, two = (run["training"] for run in data(capsys, "one", "two")["runs"])
    assert one == {"seconds": 132.6}
    assert two == {"seconds": 272.0, "steps": 56, "tokens": 88_480, "trainable": 4_884_480, "tokens_per_s": 2000.0}
    lines = {" ".join(line.split()) for line in told(capsys, "one", "two").splitlines()}
    assert {"time 2 min 13 s 4 min 32 s", "steps – 56", "tokens a second – 2,000"} <= lines


def test_runs_of_one_name_are_told_apart_by_key(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_run(tmp_path, "name=one", "seed=8")
    found = data(capsys, f"one@{runs[0].name}", str(other))
    assert [run["run"] for run in found["runs"]] == [f"one@{runs[0].name}", f"one@{other.name}"]
    assert found["keys"] == {"seed": [0, 8]}


def test_what_cannot_be_compared(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "compare needs two runs or more" in told(capsys, code=2)
    assert "compare needs two runs or more" in told(capsys, "one", code=2)
    assert "one@" in (text := told(capsys, "one", str(runs[0]), code=2))
    assert "is named twice" in text
    assert "did you mean `three`?" in told(capsys, "one", "thre", code=2)
    write_run(tmp_path, "name=silent", "eval=none")
    for path in runs[1].glob("stages/train-*.json"):
        path.unlink()
    text = told(capsys, "one", "two", "silent", "nowhere", code=2)  # all at once
    assert "two has not finished training" in text
    assert "silent has not been measured" in text
    assert "no run called `nowhere`" in text
    assert "3 problems" in text
    assert "output_dir=FOLDER" in told(capsys, "one", "two", "seed=1", code=2)


def test_the_page_has_it_all(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "one", "two", "three").splitlines()[-1] == "page: outputs/compare.html"
    path = tmp_path / "outputs" / "compare.html"
    page = Page(path)
    assert page.headings == ["Measured", "What differs in their recipes", "Loss", "Training", "Where answers differ most"]
    text = " ".join(page.text.split())
    assert "Exact match: one 0.79, two 0.75 (cannot tell), three 0.00 (worse). Measured on the same 126 held-out rows." in text
    assert "three is better than one in 0, worse in 100, the same in 26." in text
    assert path.read_text().count("<polyline class=") == 3
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    assert not re.search(r"url\(|@import|https?://", path.read_text(encoding="utf-8"))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes
    assert str(tmp_path) not in page.text


def test_the_page_is_where_it_was_asked_for(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data(capsys, "one", "two", "to=pages/x.html")["page"] == str(tmp_path / "pages" / "x.html")
    assert (tmp_path / "pages" / "x.html").is_file()
    assert not (tmp_path / "outputs" / "compare.html").exists()
    assert "the page is an HTML file" in told(capsys, "one", "two", "to=outputs", code=2)
    data(capsys, str(runs[0]), str(runs[1]))
    assert (tmp_path / "outputs" / "compare.html").is_file()


def test_rows_for_show_are_those_that_differ_most(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row is right in one run alone and has other fields too, one answer differs without a score that does, all else is the same."""
    for run, share in ((runs[0], 1.0), (runs[1], 0.0)):

        def same(index: int, row: Row, share: float = share) -> Row:
            row |= {"tuned": row["reference"], "prompt": [{"role": "user", "content": f"question {index}"}]}
            if index == 77:
                row |= {"tuned": row["reference"] if share else "{}"}
            if index == 5:
                row |= {"tuned": f"other words {share}"}
            return scored(row, exact_match=share if index == 77 else 1.0, valid_json=1.0)

        change_rows(run, same)
    told(capsys, "one", "two")
    text = Page(tmp_path / "outputs" / "compare.html").text
    assert re.findall(r"question \d+", text) == ["question 77", "question 5"]
    assert "The 2 held-out rows" in text
    assert "two is better than one in 0, worse in 1, the same in 125." in " ".join(text.split())


def test_rows_without_scores_are_the_first_that_differ(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for run, word in ((runs[0], "a"), (runs[1], "b")):
        rows = next((run / "eval").glob("*/rows.jsonl"))
        lines = [json.loads(line) for line in rows.read_text(encoding="utf-8").splitlines()]
        lines = [line | {"base_scores": {}, "tuned_scores": {}, "tuned": word if i > 2 else "same"} for i, line in enumerate(lines)]
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert "not tested" in told(capsys, "one", "two")
    text = Page(tmp_path / "outputs" / "compare.html").text
    assert "The first 6 held-out rows that the runs answer differently" in text
    assert "is better than" not in text


def test_runs_on_other_rows_have_no_rows_for_show(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_rows(runs[1], lambda i, row: row | {"reference": "{}"})
    told(capsys, "one", "two")
    page = Page(tmp_path / "outputs" / "compare.html")
    assert "Where answers differ most" not in page.headings
    assert "two 0.75 (other rows)." in page.text
    assert "Two was measured on other held-out rows than one: no verdicts." in page.text


def test_what_rows_hold_stays_text(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_rows(runs[1], lambda i, row: row | {"tuned": ATTACK})
    told(capsys, "one", "two")
    page = Page(tmp_path / "outputs" / "compare.html")
    assert not page.tags & {"script", "img"}
    assert page.text.count("<script>alert('x')</script>") == 6


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to see the page as a person does")
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_screen(runs: tuple[Path, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str], width: int) -> None:
    told(capsys, "one", "two", "three")
    assert f"<title> of {width} stick out</title>" in sticks_out(tmp_path / "outputs" / "compare.html", tmp_path, width)


def test_nothing_heavy_is_loaded(runs: tuple[Path, ...]) -> None:
    code = "import sys, tuner.cli; tuner.cli.main(['compare', 'one', 'two']); print({'torch', 'transformers'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ())
    assert answer.stdout.splitlines()[-1] == "set()"


def test_two_runs_that_were_trained(tmp_path: Path) -> None:
    """Real runs: what one learned more than the other is told by the loss of each row."""
    lab = make_lab(tmp_path)
    for name, steps in (("short", 1), ("long", 12)):
        done = lab.tune("recipe=small", f"name={name}", f"trainer.max_steps={steps}", "eval.metrics=[exact_match]", "hub.enabled=false")
        assert done.returncode == 0, done.stderr
    found = json.loads(lab.tune("compare", "short", "long", "--json").stdout)
    loss = found["metrics"]["loss"]
    assert (found["same_base"], len(set(loss["base"]))) == (True, 1)
    assert loss["against_first"][1]["verdict"] == "better"
    low, high = loss["against_first"][1]["interval"]
    assert low < loss["tuned"][1] - loss["tuned"][0] < high < 0
    assert found["metrics"]["perplexity"]["against_first"][1]["verdict"] == "better"
    assert found["keys"] == {"trainer.max_steps": [1, 12]}
    assert [run["training"]["steps"] for run in found["runs"]] == [1, 12]
    assert not any(note.startswith("not tested") for note in found["notes"])
