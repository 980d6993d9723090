"""report.html: all there, nothing foreign in it, nothing of it run or fetched: whatever a model or a data row wrote stays text."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from tests.synthetic import train_log, write_run
from tuner.eval import svg
from tuner.eval.pages import answer, read_log
from tuner.eval.report import write_report
from tuner.measures import figure
from tuner.results import read_results
from tuner.runs import read_json, write_json

ATTACK = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'</pre>{{ 7*7 }}"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The page's tags, attributes, headings and text; checks that every tag is closed in its turn."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.headings: list[str] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] == ["h2"]:
            self.headings.append(data)
        if "style" not in self.open:
            self.text += data


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run's folder."""
    return write_run(tmp_path)


def test_says_the_result_first(run: Path) -> None:
    page = Page(write_report(run))
    assert "Exact match 0.02 → 0.78 (+0.76, 95 % interval 0.69–0.83)" in page.text
    assert page.headings == ["Base against tuned", "Loss", "Examples", "What was trained", "Data", "Recipe", "Time", "Environment"]
    assert page.text.count("matches") + page.text.count("differs") + page.text.count("not JSON") == 20  # ten rows, base and tuned
    assert "28 wrong before and after" in page.text
    assert "recipes/quickstart.yaml" in page.text


def test_every_metric_has_its_verdict(run: Path) -> None:
    found = read_json(run / "metrics.json")
    found["verdicts"] |= {"valid_json": "cannot tell", "loss": "worse"}
    del found["intervals"]["perplexity"], found["verdicts"]["perplexity"]
    write_json(run / "metrics.json", found)
    by_name = {m.name: m for m in read_results(run).metrics}
    assert list(by_name) == ["exact match", "valid JSON", "intent", "product", "urgency", "customer", "loss", "perplexity"]
    assert [by_name[n].verdict for n in ("exact match", "valid JSON", "loss", "perplexity")] == [
        "better",
        "cannot tell",
        "worse",
        "not tested",
    ]
    assert by_name["loss"].sentence == "loss 3.10 → 0.06 (−3.04, 95 % interval −3.21 to −2.88)"
    assert {"cannot tell", "worse", "not tested"} <= set(re.findall(r">([a-z ]+)</span>", write_report(run).read_text()))


def test_needs_no_other_file_and_runs_nothing(run: Path) -> None:
    path = write_report(run)
    page = Page(path)
    assert not page.tags & {"script", "link", "iframe", "object", "embed", "img", "form"}
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert not [value for name, value in page.attributes if name in ("src", "href", "action", "data", "xlink:href")]
    assert not re.search(r"url\(|@import|https?://", path.read_text(encoding="utf-8"))
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'; img-src data:") in page.attributes
    assert 20_000 < path.stat().st_size < 100_000


def test_text_of_models_and_rows_stays_text(run: Path) -> None:
    rows = next((run / "eval").glob("*/rows.jsonl"))
    row = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])
    row |= {"prompt": [{"role": "user", "content": ATTACK}], "base": ATTACK, "tuned": json.dumps({"intent": ATTACK, ATTACK: 1})}
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    audit = read_json(run / "audit.json")
    write_json(run / "audit.json", audit | {"end_of_turn": ATTACK, "sample": [{"text": ATTACK, "trained": True}]})
    write_json(run / "lock.json", {"versions": {ATTACK: ATTACK}})
    metrics = read_json(run / "metrics.json")
    metrics["base"][f"field/{ATTACK}"] = metrics["tuned"][f"field/{ATTACK}"] = 0.5
    write_json(run / "metrics.json", metrics)
    page = Page(write_report(run))
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert "49" not in re.findall(r"</pre>(.{0,12})", page.text)


@pytest.mark.parametrize(
    ("absent", "heading"),
    [
        ("metrics.json", "Base against tuned"),
        ("audit.json", "What was trained"),
        ("data.json", "Data"),
        ("train_log.jsonl", "Loss"),
        ("lock.json", "Environment"),
        ("stages", "Time"),
        ("eval", "Examples"),
    ],
)
def test_a_part_that_is_absent_is_left_out(run: Path, absent: str, heading: str) -> None:
    gone = run / absent
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    if absent == "stages":  # two more stages stand in folders that other runs share
        shutil.rmtree(run.parent.parent / ".cache")
    page = Page(write_report(run))
    assert heading not in page.headings
    assert len(page.headings) == 7


def test_a_run_without_evaluation(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "eval=none")
    page = Page(write_report(folder))
    assert "Nothing was measured" in page.text
    assert not {"Base against tuned", "Examples"} & set(page.headings)


def test_nothing_of_this_machine_is_shown(run: Path, tmp_path: Path) -> None:
    assert str(tmp_path) not in html.unescape(write_report(run).read_text(encoding="utf-8"))


def test_long_logs_and_long_rows_stay_small(run: Path) -> None:
    (run / "train_log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in train_log(100_000)), encoding="utf-8")
    rows = next((run / "eval").glob("*/rows.jsonl"))
    row = json.loads(rows.read_text(encoding="utf-8").splitlines()[0])
    rows.write_text(json.dumps(row | {"base": "x" * 3_000_000}) + "\n", encoding="utf-8")
    path = write_report(run)
    assert path.stat().st_size < 150_000
    assert "(2,998,800 more characters)" in path.read_text(encoding="utf-8")


def test_a_log_that_was_resumed_and_torn(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": float("nan")},
        {"step": 3, "loss": 9.0},
        {"step": 3, "loss": 1.0},
        {"step": 3, "eval_loss": 1.2},
    ]
    path = tmp_path / "train_log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 4, "lo', encoding="utf-8")
    loss, held_out, rate, _ = read_log(path)
    assert [x for x, _ in loss] == [1, 2, 3]
    assert loss[-1] == (3, 1.0)
    assert (held_out, rate) == ([(3, 1.2)], [])
    assert "nan" not in svg.loss_chart(loss, held_out, rate)


def test_wrong_fields_are_told_apart() -> None:
    reference = '{"intent": "refund", "urgency": "low", "name": null}'
    given = answer('{"intent": "refund", "urgency": "high", "more": 1}', reference)
    assert [(f["name"], f["state"]) for f in given["fields"]] == [
        ("intent", "same"),
        ("urgency", "wrong"),
        ("name", "missing"),
        ("more", "extra"),
    ]
    assert answer('{"name": null, "urgency": "low", "intent": "refund"}', reference)["same"]
    assert answer("[1]", reference)["is_no_json"]
    assert answer(" yes\n", "yes") == {"text": " yes\n", "fields": [], "same": True, "is_no_json": False}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.8125, "0.81"), (0.996, "0.996"), (1.0, "1.00"), (0.0, "0.00"), (0.002, "0.002"), (1234.5, "1,234.5"), (None, "–")],
)
def test_a_figure_is_not_rounded_to_perfection(value: float | None, text: str) -> None:
    assert figure(value) == text


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.043, 2.9), (1e-5, 3e-5), (7.0, 7.0), (120.0, 8345.0)])
def test_ticks_are_round_and_cover_the_range(low: float, high: float) -> None:
    found = svg.ticks(low, high)
    assert found[0] <= low
    assert found[-1] >= high
    assert 2 <= len(found) <= 8
    steps = {f"{b - a:.0e}"[0] for a, b in pairwise(found)}
    assert len(steps) == 1
    assert steps <= {"1", "2", "5"}


def sticks_out(path: Path, folder: Path, width: int) -> str:
    """What reaches beyond the right edge. A script looks, which the page itself would forbid, in a frame: a window has a least width."""
    assert CHROMIUM is not None
    page = path.read_text(encoding="utf-8").replace("default-src 'none'; ", "default-src 'none'; script-src 'unsafe-inline'; ")
    over = "[...document.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > innerWidth).map(e => e.className)"
    probe = f"<script>parent.postMessage(`${{{over}}} of ${{innerWidth}} stick out`, '*')</script></body>"
    (folder / "page.html").write_text(page.replace("</body>", probe), encoding="utf-8")
    frame = (
        f"<script>onmessage = m => document.title = m.data</script><iframe src=page.html width={width} height=900 frameborder=0></iframe>"
    )
    (folder / "frame.html").write_text(frame, encoding="utf-8")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/chromium", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *flags, "--dump-dom", f"file://{folder}/frame.html"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to see the page as a person does")
@pytest.mark.parametrize("width", [1280, 390])
def test_fits_the_screen(run: Path, tmp_path: Path, width: int) -> None:
    assert f"<title> of {width} stick out</title>" in sticks_out(write_report(run), tmp_path, width)


def test_the_data_section_tells_packs_duplicates_and_what_was_left_out(run: Path) -> None:
    data = read_json(run / "data.json")
    data["train"]["duplicates"] = 14
    data |= {"packs": {"rows": 52, "capacity": 1024, "fill": 0.987}, "skipped": {"rows": 3, "first": ["train.jsonl:7: no JSON"]}}
    write_json(run / "data.json", data)
    text = write_report(run).read_text()
    for fact in ("14<small>rows like an earlier one", "98.7% full, of 1,024 tokens", "3<small>rows that could not be read"):
        assert fact in text
