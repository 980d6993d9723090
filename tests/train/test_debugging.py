"""`debug=…`: each mode on the tiny model, for real; the recipe's own run is left alone."""

from __future__ import annotations

import gzip
import html
import json
from itertools import pairwise
from pathlib import Path

import pytest

from tests.lab import Lab, log_of, losses_of, make_lab, train
from tuner.context import Run
from tuner.errors import TuneError
from tuner.pipeline import execute
from tuner.runs import read_json
from tuner.train.debugging.lr import falls, suggest


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def whole(run: Run) -> None:
    """All stages, as the worker does them."""
    run.plan.write(run.folder / "plan.json")
    execute(run)


def test_a_look_is_a_run_of_its_own(lab: Lab) -> None:
    plain = lab.plan()
    for kind in ("fast", "overfit", "profile", "lr", "noise"):
        look = lab.plan(f"debug={kind}")
        assert look.name == f"{plain.name}-{kind}"
        assert look.stage("train").key != plain.stage("train").key
        assert look.stage("prepare").key == plain.stage("prepare").key, "the rows are shared"
    assert lab.plan("debug=fast", "name=small-fast").name == "small-fast", "as its own recipe.yaml says"
    assert lab.plan("debug=none").stage("train").key == plain.stage("train").key
    assert [s.name for s in lab.plan("debug=overfit").stages] == ["prepare", "train"]
    assert lab.plan("debug=overfit").origins["trainer.lr_scheduler_type"] == "debug=overfit"


def test_what_is_typed_stays(lab: Lab) -> None:
    recipe = lab.plan("debug=fast", "trainer.max_steps=7").load_recipe()
    assert (recipe.trainer.max_steps, recipe.eval.limit) == (7, 4)
    assert lab.plan("debug=fast", "debug.steps=2", "hub.repo_id=me/it").load_recipe().trainer.max_steps == 2


def test_fast_measures_while_training_where_the_recipe_does(lab: Lab) -> None:
    path = lab.folder / "recipes" / "small.yaml"
    stopping = "save_steps: 20, eval_steps: 20, load_best_model_at_end: true, early_stopping_patience: 3"
    path.write_text(path.read_text(encoding="utf-8").replace("save_steps: 2", stopping), encoding="utf-8")
    assert lab.plan("debug=fast").load_recipe().trainer.eval_steps == 3


def test_fast_goes_through_every_stage(lab: Lab) -> None:
    run = lab.run("debug=fast")
    whole(run)
    assert {p.name.partition("-")[0] for p in (run.folder / "stages").iterdir()} == {"train", "evaluate", "publish"}
    assert len(losses_of(run.folder)) == 3
    assert read_json(run.folder / "metrics.json")["rows"] == 4
    assert (run.folder / "report.html").is_file()


def test_one_batch_is_learned_by_heart(lab: Lab) -> None:
    run = lab.run("debug=overfit", "adapter=full", "trainer.learning_rate=1e-2", "trainer.batch_size=2", "debug.steps=200")
    whole(run)
    losses = losses_of(run.folder)
    assert losses[-1] <= 0.2 * losses[0]
    assert len(losses) < 200, "it ends when it has learned"
    tokens = [0, *(entry["tokens"] for entry in log_of(run.folder))]
    assert len({b - a for a, b in pairwise(tokens)}) == 1, "the same rows in each step"
    assert any("is learned by heart" in told for told in lab.told)
    assert not list(run.folder.glob("*.safetensors"))
    assert all(stage.done for stage in run.plan.stages)


def test_what_cannot_learn_is_a_gate(lab: Lab) -> None:
    with pytest.raises(TuneError, match="one batch is not learned by heart") as caught:
        train(lab.run("debug=overfit", "trainer.learning_rate=1e-9", "debug.steps=5"))
    assert caught.value.code == 3
    assert "now 1e-09" in caught.value.problems[0].fix


def test_the_rate_that_is_suggested_trains(lab: Lab) -> None:
    run = lab.run("debug=lr", "adapter=full", "debug.steps=60", "debug.lr_min=1e-5", "debug.lr_max=10")
    whole(run)
    found = read_json(run.folder / "lr_finder.json")
    rates = [point["learning_rate"] for point in found["curve"]]
    assert rates[0] == pytest.approx(1e-5)
    assert all(b / a == pytest.approx(1e6 ** (1 / 59), rel=1e-6) for a, b in pairwise(rates))
    assert 1e-4 < found["suggestion"] < 1e-1
    page = (run.folder / "report.html").read_text()
    assert "Loss over learning rates" in page
    assert f"<b>{found['suggestion']:.1e}</b>" in page
    assert f"trainer.learning_rate={found['suggestion']:.1e}" in lab.told[-2] + lab.told[-1]
    tried = lab.run("adapter=full", f"trainer.learning_rate={found['suggestion']:.1e}", "trainer.max_steps=10", "eval=none", "hub=none")
    train(tried)
    assert losses_of(tried.folder)[-1] < losses_of(tried.folder)[0] - 0.2


def test_no_rate_is_suggested_where_nothing_falls(lab: Lab) -> None:
    with pytest.raises(TuneError, match="the loss fell at no rate") as caught:
        train(lab.run("debug=lr", "debug.lr_max=1e-5", "debug.steps=12"))
    assert caught.value.code == 3


def test_the_steepest_descent() -> None:
    rates = [10.0**-n for n in range(8, 0, -1)]
    assert suggest(rates, [5, 5, 4.9, 4.0, 2.0, 1.9, 4.0, 9.0]) == pytest.approx(1e-5, rel=0.01)
    assert not falls([5, 5, 5, 5, 5, 5, 6, 9], [5, 5, 5, 5, 5, 5, 6, 9], 0.0)


def test_a_profile_is_a_trace_that_opens(lab: Lab) -> None:
    run = lab.run("debug=profile", "debug.steps=2")
    whole(run)
    found = read_json(run.folder / "profile" / "summary.json")
    assert sum(found["kinds"].values()) == pytest.approx(1, abs=1e-6)
    assert found["kinds"]["matrix products"] > 0
    assert found["tokens"] > 0
    assert found["operations"][0]["name"] in html.unescape((run.folder / "report.html").read_text())
    with gzip.open(run.folder / "profile" / "trace.json.gz") as stream:
        events = json.load(stream)["traceEvents"]
    assert {f"ProfilerStep#{n}" for n in (2, 3)} <= {e["name"] for e in events}
    assert any("Optimizer.step" in e["name"] for e in events)
    assert len(losses_of(run.folder)) == 4


def test_rules_of_looking(lab: Lab) -> None:
    with pytest.raises(TuneError, match="a stream never comes back"):
        lab.plan("debug=overfit", "data.streaming=true")
    with pytest.raises(TuneError, match="is not above"):
        lab.plan("debug=lr", "debug.lr_max=1e-7")
