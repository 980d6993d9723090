"""`eval.lm_eval`: what lm-evaluation-harness says of base and tuned by itself, with intervals; its tasks bring no code of their own."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.lab import Lab, make_lab
from tests.tasks import labs
from tuner import cli
from tuner.measures import Metric, figure, lower_is_better
from tuner.runs import read_json

COMMON = "dataset_path: json\ndataset_kwargs: {data_files: {test: rows.jsonl}}\ntest_split: test\n"
PICK = f"""\
task: pick
{COMMON}output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: label
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
SUMS = f"""\
task: sums
{COMMON}output_type: generate_until
doc_to_text: "{{{{question}}}}\\n"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 6, do_sample: false}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
"""
READ = f"""\
task: read
{COMMON}output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: word_perplexity}}]
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path)
    rows: list[dict[str, Any]] = []
    for a in range(12):
        choices = ["red", str(a + 2), "green"]
        rows.append({"question": f"What is {a} + 2?", "answer": str(a + 2), "choices": choices, "label": 1})
    folder = made.folder / "tasks"
    folder.mkdir()
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in {"pick": PICK, "sums": SUMS, "read": READ}.items():
        (folder / f"{name}.yaml").write_text(text)
    return made


def tune(lab: Lab, *args: str) -> int:
    with contextlib.chdir(lab.folder):
        return cli.main([*args])


def by_itself(model: Path, tasks: Path, names: list[str]) -> dict[str, float]:
    """What the harness gives with nothing of ours around it."""
    asked = HFLM(pretrained=AutoModelForCausalLM.from_pretrained(model), tokenizer=AutoTokenizer.from_pretrained(model), batch_size=2)
    with contextlib.chdir(tasks), contextlib.redirect_stderr(io.StringIO()):
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        found: Any = lm_eval.simple_evaluate(asked, tasks=names, task_manager=manager, bootstrap_iters=0)
    return {f"{n}/{key.partition(',')[0]}": value for n, said in found["results"].items() for key, value in said.items() if ",none" in key}


def test_base_and_tuned_get_what_the_harness_gives_them(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    base = Path(lab.plan().recipe["model"]["id"])
    files = "eval.lm_eval.tasks=[tasks/pick.yaml, tasks/sums.yaml, tasks/read.yaml]"
    small = ["recipe=small", "launcher=inline", "adapter=full", "eval.generate=false", "trainer.learning_rate=0.01"]
    assert tune(lab, *small, files) == 0
    said = capsys.readouterr().out
    assert "lm-eval: pick" in said
    (run,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(run / "metrics.json")
    names = ["pick", "sums", "read"]
    for side, model in (("base", base), ("tuned", run)):
        for key, value in by_itself(model, lab.folder / "tasks", names).items():
            if "stderr" not in key:
                assert found[side][key] == pytest.approx(value, rel=1e-5), key
    assert set(found["base"]) >= {"pick/acc", "sums/exact_match", "read/word_perplexity"}
    low, high = found["intervals"]["pick/acc"]
    assert low <= found["tuned"]["pick/acc"] - found["base"]["pick/acc"] <= high
    assert "read/word_perplexity" not in found["intervals"], "it is no mean of rows"
    assert "not tested" in next(line for line in said.splitlines() if line.startswith("read/word_perplexity"))
    assert "read/word_perplexity" in (run / "report.html").read_text()

    assert str(lab.folder / "tasks" / "pick.yaml") in (run / "recipe.yaml").read_text()
    assert str(lab.folder) not in (run / "published" / "README.md").read_text()

    before = read_json(run / "plan.json")
    assert tune(lab, "eval", str(run), "eval.lm_eval.limit=3", "eval.gate=['pick/acc >= 0']") == 0
    after = read_json(run / "plan.json")
    keys = [{stage["name"]: stage["key"] for stage in plan["stages"]} for plan in (before, after)]
    assert keys[0]["train"] == keys[1]["train"]
    assert keys[0]["baseline"] != keys[1]["baseline"]
    assert read_json(run / "metrics.json")["base"]["pick/acc"] in (0.0, 1 / 3, 2 / 3, 1.0)


def test_another_row_is_another_key(lab: Lab) -> None:
    def key() -> str:
        with contextlib.chdir(lab.folder):
            return lab.plan("eval.lm_eval.tasks=[tasks/pick.yaml]").stage("baseline").key

    before = key()
    rows = lab.folder / "tasks" / "rows.jsonl"
    rows.write_text(rows.read_text() + rows.read_text().splitlines()[0] + "\n")
    assert key() != before
    (lab.folder / "tasks" / "pick.yaml").write_text(PICK.replace("acc,", "acc_norm,"))
    assert key() != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (PICK.replace('"{{question}}"', "!function utils.question"), "runs code of its own (`!function`)"),
        (PICK + "process_docs: utils.docs\n", "has `process_docs`, which brings code"),
        (PICK + "include: other.yaml\n", "has `include`, which brings code"),
        (PICK.replace("rows.jsonl", "nowhere.jsonl"), "the rows of the task are not there: nowhere.jsonl"),
        ("group: many\ntask: [pick]\n", "names no task"),
        ("task: [", "is no YAML"),
    ],
)
def test_task_files_that_are_refused(lab: Lab, text: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    (lab.folder / "tasks" / "pick.yaml").write_text(text)
    assert tune(lab, "recipe=small", "dry_run=true", "eval.lm_eval.tasks=[tasks/pick.yaml]") == 2
    found = capsys.readouterr().err
    assert said in found
    assert "pick.yaml" in found


def test_a_template_reaches_no_code(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = PICK.replace("{{question}}", "{{question.__class__.__mro__[1].__subclasses__()}}")
    (lab.folder / "tasks" / "pick.yaml").write_text(hostile)
    assert tune(lab, "recipe=small", "launcher=inline", "eval.lm_eval.tasks=[tasks/pick.yaml]") == 2
    assert "SecurityError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        (["eval.lm_eval.tasks=[arc_eazy]"], 2, "did you mean `arc_easy`?"),
        (["eval.lm_eval.tasks=[arc_easy]"], 4, "the rows of the lm-eval task `arc_easy` cannot be had"),
        (["eval.lm_eval.tasks=[]"], 2, "`eval.lm_eval` names no task"),
        (["eval.lm_eval.tasks=[tasks/none.yaml]"], 2, "no such file: tasks/none.yaml"),
        (["task=classify", f"model.id={labs.encoder()}", "eval.lm_eval.tasks=[tasks/pick.yaml]"], 2, "has no use for `eval.lm_eval`"),
    ],
)
def test_what_cannot_be_asked_is_told_before_training(
    lab: Lab, overrides: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(lab, "recipe=small", "launcher=inline", *overrides) == code
    found = capsys.readouterr()
    assert said in found.err
    assert "train …" not in found.out


def test_which_way_is_better() -> None:
    assert lower_is_better("wikitext/word_perplexity")
    assert lower_is_better("loss")
    assert not lower_is_better("gsm8k/exact_match:strict-match")
    assert not lower_is_better("field/perplexity"), "a field of JSON that is called so"
    assert not Metric(key="x/bleu", base=12.0, tuned=30.0).is_rate
    assert Metric(key="pick/acc", base=0.2, tuned=1.0).is_rate


def test_how_benchmarks_are_called() -> None:
    """By their own name, together; parts of an answer and of a reward are none."""
    found = [Metric(key=key, base=0.0, tuned=0.0) for key in ("arc_easy/acc_norm", "field/intent", "reward/exact", "exact_match")]
    assert [(m.name, m.group) for m in found] == [
        ("arc_easy/acc_norm", "Benchmarks"),
        ("intent", "Fields of the answer"),
        ("reward/exact", ""),
        ("exact match", ""),
    ]
    assert [figure(value) for value in (6324380.6, -123456.0, 12345.6, 0.25)] == ["6.32e6", "−1.23e5", "12,345.6", "0.25"]
