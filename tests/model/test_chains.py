"""Runs that start from other runs: `model=run:NAME`, `adapter.continue_from`; each result is loaded by plain Transformers and PEFT."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.lab import Lab, losses_of, make_lab, task_of, tiny_model, train, weights_of
from tests.train.test_training import fresh_base, logits
from tuner.context import Run
from tuner.errors import TuneError
from tuner.hub.preflight import preflight
from tuner.pipeline import execute
from tuner.plan import read_plan
from tuner.runs import read_json
from tuner.schema.compose import compose


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return make_lab(tmp_path, held_out=3)


def finished(lab: Lab, *overrides: str) -> Run:
    """A whole run: trained, measured, published into a folder."""
    run = lab.run("trainer.max_steps=3", "eval.max_new_tokens=4", *overrides)
    run.plan.write(run.folder / "plan.json")
    execute(run)
    return run


def metric(run: Run, side: str) -> float:
    return float(read_json(run.folder / "metrics.json")[side]["loss"])


@pytest.mark.parametrize("second", ["lora", "full"])
@pytest.mark.parametrize("first", ["lora", "full"])
def test_a_chain_starts_where_the_other_run_ended(lab: Lab, first: str, second: str) -> None:
    one = finished(lab, f"adapter={first}", "name=one", "trainer.learning_rate=3e-3")
    two = finished(lab, "model=run:one", f"adapter={second}", "name=two", "trainer.learning_rate=3e-3")
    assert metric(two, "base") == pytest.approx(metric(one, "tuned"), abs=1e-5)
    assert metric(two, "tuned") < metric(two, "base")
    if second == "full":
        found: Any = AutoModelForCausalLM.from_pretrained(str(two.folder), dtype=torch.float32)
    else:
        base = read_json(two.folder / "adapter_config.json")["base_model_name_or_path"]
        found = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), str(two.folder))
    again = read_plan(two.folder / "plan.json")
    loaded = task_of(two).load(Run(plan=again, recipe=again.load_recipe(), device=two.device, tell=print), tuned=two.folder)
    torch.testing.assert_close(logits(found), logits(loaded), atol=1e-5, rtol=1e-5)
    assert (logits(found) - logits(fresh_base())).abs().max() > 1e-3


def test_a_chain_of_three_and_what_its_keys_see(lab: Lab) -> None:
    finished(lab, "name=one", "eval=none", "hub=none")
    finished(lab, "model=run:one", "name=two", "eval=none", "hub=none")
    keys = {s.name: s.key for s in lab.plan("model=run:two", "trainer.max_steps=3", "name=three", "eval=none", "hub=none").stages}
    three = finished(lab, "model=run:two", "name=three", "eval=none", "hub=none")
    assert three.plan.stage("train").key == keys["train"]
    assert [told for told in lab.told if told.startswith("merging")] == [
        f"merging the adapter of {name} into its base (once)" for name in ("one", "two")
    ]
    other = finished(lab, "name=one", "seed=1", "eval=none", "hub=none")  # the newest of its name
    lab.told.clear()
    assert lab.plan("model=run:one", "name=x").stage("train").key != lab.plan(f"model=run:{three.folder}", "name=x").stage("train").key
    assert lab.plan(f"model=run:{other.folder}", "name=x").stage("train").key == lab.plan("model=run:one", "name=x").stage("train").key
    with pytest.raises(TuneError, match=r"`model.id` is org/other, and `model=run:one` starts from what was learned over"):
        lab.plan("model=run:one", "model.id=org/other", "name=x")


def test_a_recipe_file_may_name_the_run(lab: Lab) -> None:
    finished(lab, "name=one", "eval=none", "hub=none")
    recipe = (lab.folder / "recipes" / "small.yaml").read_text().replace(f"model: {{id: {tiny_model()}, dtype: float32}}\n", "")
    text = f"defaults:\n  - model: run:one\noutput_dir: {lab.folder / 'outputs'}\n{recipe}"
    (lab.folder / "recipes" / "next.yaml").write_text(text)
    model = compose(str(lab.folder / "recipes" / "next.yaml"), []).recipe.model
    assert Path(model.run or "").parent.name == "one"
    assert (model.id, model.dtype.value) == (str(tiny_model()), "float32")
    other = compose(str(lab.folder / "recipes" / "next.yaml"), ["model=smollm2-135m"]).recipe.model
    assert other.run is None


def test_what_cannot_be_started_from_is_told(lab: Lab) -> None:
    with pytest.raises(TuneError, match="no run called `nothing`"):
        lab.plan("model=run:nothing")
    started = lab.run("name=begun")
    started.plan.write(started.folder / "plan.json")
    with pytest.raises(TuneError, match="is not trained yet"):
        lab.plan("model=run:begun")
    finished(lab, "name=virtual", "adapter=prompt", "eval=none", "hub=none")
    with pytest.raises(TuneError, match=r"cannot be merged") as caught:
        finished(lab, "model=run:virtual", "name=two", "eval=none", "hub=none")
    assert "adapter.continue_from=run:virtual" in str(caught.value.problems[0].fix)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
@pytest.mark.parametrize("adapter", ["lora", "dora", "ia3", "oft", "layernorm", "prefix"])
def test_an_adapter_is_gone_on_with(lab: Lab, adapter: str) -> None:
    one = lab.run(f"adapter={adapter}", "name=one", "trainer.max_steps=4")
    before = train(one)["probe_loss"]
    one.plan.write(one.folder / "plan.json")
    (one.folder / "stages").mkdir(exist_ok=True)
    (one.folder / "stages" / "train-x.json").write_text("{}")
    start = lab.run(f"adapter={adapter}", "adapter.continue_from=run:one", "name=two", "trainer.max_steps=2")
    start.stage_folder("prepare")  # made by the first run: the rows are the same
    task = task_of(start)
    loaded: Any = task.load(start, trainable=True)
    assert task.probe(start, loaded) == pytest.approx(before, abs=1e-5)
    assert any(p.requires_grad for p in loaded.parameters())
    train(start)
    changed, was = weights_of(start.folder), weights_of(one.folder)
    assert changed.keys() == was.keys()
    assert any(not torch.equal(changed[name], was[name]) for name in was)
    plain = PeftModel.from_pretrained(fresh_base(), str(start.folder))
    assert (logits(plain)[:, -1] - logits(fresh_base())[:, -1]).abs().max() > 1e-5


def test_going_on_in_fewer_words_trains_longer(lab: Lab) -> None:
    """What it has learned is kept: its first loss is far below that of a new one."""
    finished(lab, "name=one", "eval=none", "hub=none", "trainer.max_steps=20")
    longer = finished(lab, "adapter.continue_from=run:one", "name=longer", "eval=none", "hub=none")
    fresh = finished(lab, "name=fresh", "eval=none", "hub=none")
    assert losses_of(longer.folder)[0] < losses_of(fresh.folder)[0] - 0.3


@pytest.mark.parametrize(
    ("overrides", "message", "where"),
    [
        (["adapter=ia3"], "the adapter in .* is LORA, not IA3", "adapter.continue_from"),
        (["adapter.r=8"], "has `r` 16, this recipe 8", "adapter.r"),
        (["adapter.target_modules=[q_proj]"], "has `target_modules`", "adapter.target_modules"),
        (["adapter.use_dora=true"], "has `use_dora` false, this recipe true", "adapter.use_dora"),
    ],
)
def test_another_adapter_than_the_saved_one_is_an_error(lab: Lab, overrides: list[str], message: str, where: str) -> None:
    one = lab.run("name=one", "trainer.max_steps=1")
    train(one)
    saved = lab.folder / "saved"
    saved.mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(one.folder / name, saved)
    with pytest.raises(TuneError, match=message) as caught:
        train(lab.run(f"adapter.continue_from={saved}", "name=two", *overrides))
    assert caught.value.problems[0].where == where


def test_rules_of_going_on(lab: Lab) -> None:
    for overrides, message in (
        (["adapter=pissa"], "the matrices start where the saved ones are"),
        (["adapter=adalora"], "cannot be cut again"),
        (["adapter=p_tuning"], "not the encoder"),
    ):
        with pytest.raises(TuneError, match=message):
            lab.plan("adapter.continue_from=somewhere", *overrides)
    with pytest.raises(TuneError, match="no run called"):
        lab.plan("adapter.continue_from=somewhere")
    (lab.folder / "empty").mkdir()
    with pytest.raises(TuneError, match="there is no adapter in"):
        lab.plan(f"adapter.continue_from={lab.folder / 'empty'}")


def test_the_adapters_content_enters_the_training_key_alone(lab: Lab) -> None:
    one = finished(lab, "name=one", "eval=none", "hub=none")
    plans = [lab.plan("name=x", *more) for more in ([], ["adapter.continue_from=run:one"])]
    keys = [{s.name: s.key for s in plan.stages} for plan in plans]
    assert keys[0]["prepare"] == keys[1]["prepare"]
    assert keys[0]["baseline"] == keys[1]["baseline"]
    assert keys[0]["train"] != keys[1]["train"]
    shutil.copytree(one.folder, lab.folder / "copied")
    assert lab.plan("name=x", f"adapter.continue_from={lab.folder / 'copied'}").stage("train").key == keys[1]["train"]


def test_a_published_chain_names_no_folder_of_this_machine(lab: Lab) -> None:
    shutil.move(finished(lab, "name=one").folder, lab.folder / "elsewhere")  # not under `output_dir`, whose name is taken out anyway
    one = lab.folder / "elsewhere"
    for run in (finished(lab, f"model=run:{one}", "name=two"), finished(lab, f"adapter.continue_from={one}", "name=three")):
        for path in (run.folder / "published").rglob("*"):
            if path.suffix in (".yaml", ".json", ".md") and path.is_file():
                assert str(lab.folder) not in path.read_text(), path.name


def test_a_chained_adapter_is_not_pushed(lab: Lab) -> None:
    """Nobody else has its base; a fully tuned model is whole."""
    finished(lab, "name=one", "eval=none", "hub=none")
    plans = [lab.plan("model=run:one", "name=two", "hub.repo_id=me/two", f"adapter={kind}") for kind in ("lora", "full")]
    problems = [preflight(plan.load_recipe()) for plan in plans]
    assert "only this machine has" in problems[0][0].what
    assert not any("only this machine has" in problem.what for problem in problems[1])
