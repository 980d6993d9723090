"""The verbs that look: ls, show, explain; as text and as JSON."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from tuner.cli import main
from tuner.plan import make_plan
from tuner.runs import mark_done, write_json
from tuner.schema.compose import compose
from tuner.schema.describe import describe, sections
from tuner.schema.documents import list_options
from tuner.schema.layers import read_layers
from tuner.schema.synonyms import SYNONYMS
from tuner.schema.walk import all_keys

pytestmark = pytest.mark.usefixtures("project")


def told(capsys: pytest.CaptureFixture[str], *args: str, code: int = 0) -> str:
    assert main([*args]) == code
    printed = capsys.readouterr()
    return printed.err if code else printed.out


def data(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    return json.loads(told(capsys, *args, "--json"))


def make_run(*stages: str, name: str = "mine") -> Path:
    """A run of the fixture's recipe with the markers of these stages."""
    plan = make_plan(compose("mine.yaml", [f"name={name}"]))
    plan.write(Path(plan.folder) / "plan.json")
    for stage in plan.stages:
        if stage.name in stages:
            mark_done(Path(stage.folder), stage.name, stage.key, {})
    return Path(plan.folder)


def test_ls_shows_recipes_and_sections(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "ls")
    assert "quickstart\tcustomer messages into strict JSON tickets" in text
    assert f"adapter\t{len(list_options('adapter'))}\tlora\tWhich parameters are trained." in text


def test_ls_a_section(capsys: pytest.CaptureFixture[str]) -> None:
    lines = told(capsys, "ls", "adapter").splitlines()
    assert "dora\tLoRA with weight-decomposed updates (DoRA)" in lines  # from the value file's comment
    full = "full\tFull fine-tuning: every parameter is trained, in fp32 under autocast, and saved in `model.dtype`."
    assert full in lines  # from the docstring
    assert any(line.startswith("lora (default)\t") for line in lines)
    assert told(capsys, "ls", "adapters") == told(capsys, "ls", "adapter")
    assert {"custom", "minilm-l6", "smollm2-135m"} <= {o["name"] for o in data(capsys, "ls", "model")}


def test_ls_recipes_lists_a_person_s_own_and_a_broken_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "recipes/team").mkdir(parents=True)
    (project / "recipes/team/x.yaml").write_text("# x — our own\nseed: 1\n")
    (project / "recipes/bad.yaml").write_text("seed: [\n")
    found = {r["name"]: r["doc"] for r in data(capsys, "ls", "recipes")}
    assert found["team/x"] == "our own"
    assert found["bad"].startswith("broken: not valid YAML")
    assert "quickstart" in found


def test_ls_something_else_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean `tune ls runs`?" in told(capsys, "ls", "rnus", code=2)


def test_ls_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no runs in outputs" in told(capsys, "ls", "runs")
    assert data(capsys, "ls", "runs") == []
    finished = make_run("prepare", "baseline", "train", "evaluate", "publish")
    write_json(finished / "metrics.json", {"base": {"loss": 3.0, "exact_match": 0.0159}, "tuned": {"loss": 1.0, "exact_match": 0.81}})
    partial = make_run("prepare", name="other")
    (partial / "plan.json").touch()
    (other, mine) = data(capsys, "ls", "runs")  # the newest first
    assert (mine["run"], mine["state"], mine["metric"], mine["tuned"]) == (f"mine@{finished.name}", "finished", "exact_match", 0.81)
    assert (other["run"], other["state"], other["metric"]) == (f"other@{partial.name}", "partial", "")
    assert mine["size_bytes"] > 1000
    text = told(capsys, "ls", "runs")
    assert f"mine@{finished.name}\tfinished\texact_match 0.016 -> 0.810\t" in text


def test_ls_runs_elsewhere_and_damaged(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("train")
    (folder / "plan.json").write_text("{")
    Path("outputs").rename(project / "kept")
    (run,) = data(capsys, "ls", "runs", "output_dir=kept")
    assert run["state"] == "damaged"
    assert "output_dir=FOLDER" in told(capsys, "ls", "runs", "seed=1", code=2)


def test_a_finished_run_that_was_moved_is_still_finished(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run("prepare", "baseline", "train", "evaluate", "publish")
    Path("outputs").rename(project / "kept")
    (run,) = data(capsys, "ls", "runs", "output_dir=kept")
    assert run["state"] == "finished"


def test_show_gives_each_value_its_origin(capsys: pytest.CaptureFixture[str]) -> None:
    found = data(capsys, "show", "recipe=mine.yaml", "trainer.batch_size=4", "adapter=qlora")
    assert found["trainer.learning_rate"] == {"value": 0.001, "origin": "mine.yaml:6"}
    assert found["trainer.batch_size"] == {"value": 4, "origin": "command line"}
    assert found["trainer.optim"] == {"value": "adamw_torch", "origin": "default"}
    assert found["model.id"]["origin"] == "tuner/conf/model/smollm2-135m.yaml:2"
    assert found["adapter"] == {"value": "qlora", "origin": "command line"}
    assert found["model"] == {"value": "smollm2-135m", "origin": "mine.yaml:3"}


def test_show_only_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    found = data(capsys, "show", "recipe=mine.yaml", "--changed")
    assert "trainer.learning_rate" in found
    assert not any(v["origin"] == "default" for v in found.values())


@pytest.mark.parametrize("extra", [[], ["--changed"]], ids=["all", "changed"])
def test_what_show_prints_is_a_recipe_with_the_same_keys(extra: list[str], project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ["adapter=qlora", "data.system='a: \"b\" # c'", "data.columns={prompt: prompt}"]
    (project / "shown.yaml").write_text(told(capsys, "show", "recipe=mine.yaml", *overrides, *extra))
    again = make_plan(compose("shown.yaml", ["name=mine"]))
    assert again.stages == make_plan(compose("mine.yaml", overrides)).stages


def test_show_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run("prepare", "train")
    prepared = Path(make_plan(compose("mine.yaml", [])).stage("prepare").folder)
    write_json(prepared / "data.json", {"train": {"rows": 20, "tokens": 400}})
    text = told(capsys, "show", "mine")
    assert "400 in all epochs" not in text
    assert "rows       20" in text
    assert f"train\t{folder.name}\tdone\tprepare" in text
    assert "learning_rate: 0.001" in text
    assert data(capsys, "show", "mine")["folder"] == str(folder)


def test_show_is_told_one_thing(capsys: pytest.CaptureFixture[str]) -> None:
    make_run("train")
    assert "exclude each other" in told(capsys, "show", "mine", "recipe=mine.yaml", code=2)
    assert "which recipe?" in told(capsys, "show", code=2)


def test_explain_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "explain", "trainer.learning_rate")
    for line in ("Peak learning rate.", "float, more than 0, less than 10", "0.0002", "retrains, evaluates, publishes", "lr"):
        assert line in text
    assert told(capsys, "explain", "lr") == text
    assert told(capsys, "explain", "learning_rate") == text
    assert told(capsys, "explain", "trainer.learning_rate=1e-4") == text
    found = data(capsys, "explain", "adapter.quant")
    assert (found["options"], found["type"], found["default"]) == (["loftq", "qlora", "qlora8"], "nf4 | fp4 | int8", "nf4")


@pytest.mark.parametrize(
    ("key", "consequence"),
    [
        ("hub.repo_id", "publishes"),
        ("eval.bootstrap_samples", "evaluates, publishes"),
        ("eval.metrics", "measures the base model again, evaluates, publishes"),
        ("trainer.save_steps", "changes no result: nothing is done again"),
        ("data.path", "prepares the data again, retrains, evaluates, publishes"),
    ],
)
def test_explain_says_what_a_change_does(key: str, consequence: str) -> None:
    assert describe(key).consequence == consequence


def test_explain_names_the_options_that_have_a_key() -> None:
    assert describe("adapter.target_r").options == ("adalora",)
    assert {"dora", "lora", "qlora", "rslora"} < set(describe("adapter.r").options)
    assert describe("trainer.optim").options == ()
    assert describe("tracking.project").options == ("trackio", "wandb")


def test_explain_sections_and_several_meanings(capsys: pytest.CaptureFixture[str]) -> None:
    assert "trainer\t" in told(capsys, "explain")
    assert "trainer.learning_rate\t0.0002\tPeak learning rate." in told(capsys, "explain", "trainer")
    assert "model.wheel.sha256\tmust be set\t" in told(capsys, "explain", "model.wheel")
    assert "model.revision, data.revision, hub.revision" in told(capsys, "explain", "revision", code=2)
    assert "did you mean `trainer.learning_rate`?" in told(capsys, "explain", "trainer.lerning_rate", code=2)
    assert list(data(capsys, "explain", "adapter")["options"]) == list(list_options("adapter"))


@pytest.mark.parametrize("key", sorted(all_keys()))
def test_every_key_is_documented_and_its_example_can_be_typed(key: str) -> None:
    about = describe(key)
    assert len(about.doc) > 5
    (typed,) = shlex.split(about.example)
    section = key.partition(".")[0]
    choose = [f"{section}={about.options[0]}"] if about.options else []
    assert read_layers("mine.yaml", [*choose, typed]).problems == []


@pytest.mark.parametrize("word", sorted(SYNONYMS))
def test_every_synonym_leads_to_a_key(word: str) -> None:
    assert SYNONYMS[word] in all_keys() or SYNONYMS[word] in sections()


def test_a_schema_overwrites_schemas_alone(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "wrote recipe.schema.json" in told(capsys, "schema", "recipe.schema.json")
    assert "wrote recipe.schema.json" in told(capsys, "schema", "recipe.schema.json")
    (project / "list.json").write_text("[1]")
    for name in ("mine.yaml", "list.json", "."):
        before = (project / name).read_bytes() if name != "." else b""
        assert "already there" in told(capsys, "schema", name, code=2)
        assert name == "." or (project / name).read_bytes() == before
