"""Stage keys: what is done again when a value changes, and what is not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from tests.conftest import write_rows
from tuner.checks import RULES
from tuner.errors import BAD_RECIPE, TuneError
from tuner.plan import FORMAT, Plan, make_plan, read_plan
from tuner.runs import is_done, mark_done
from tuner.schema.base import default_of, opt, stages_affected
from tuner.schema.compose import compose
from tuner.schema.describe import describe
from tuner.schema.trainer import Trainer
from tuner.schema.walk import all_keys

pytestmark = pytest.mark.usefixtures("project")
ALL = {"prepare", "baseline", "train", "evaluate", "publish"}


def plan(*overrides: str, recipe: str = "mine.yaml") -> Plan:
    return make_plan(compose(recipe, [*overrides], rules=RULES))


def keys(plan: Plan) -> dict[str, str]:
    return {s.name: s.key for s in plan.stages}


def changed(before: Plan, after: Plan) -> set[str]:
    old, new = keys(before), keys(after)
    return {n for n in old.keys() | new.keys() if old.get(n) != new.get(n)}


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("hub.repo_id=me/x", {"publish"}),
        ("hub.private=false", {"publish"}),
        ("hub.license=mit", {"publish"}),
        ("eval.bootstrap_samples=200", {"evaluate", "publish"}),
        ("eval.max_new_tokens=8", {"baseline", "evaluate", "publish"}),
        ("eval.metrics=[json]", {"baseline", "evaluate", "publish"}),
        ("eval=json", {"baseline", "evaluate", "publish"}),
        ("trainer.learning_rate=1", {"train", "evaluate", "publish"}),
        ("trainer.eval_steps=5", {"train", "evaluate", "publish"}),
        ("seed=1", {"train", "evaluate", "publish"}),
        ("adapter.r=4", {"train", "evaluate", "publish"}),
        ("adapter=qlora", {"train", "evaluate", "publish"}),
        ("adapter=dora", {"train", "evaluate", "publish"}),
        ("data.limit=3", {"prepare", "train", "evaluate", "publish"}),
        ("task.max_length=512", ALL),
        ("model.dtype=float32", {"baseline", "train", "evaluate", "publish"}),
        ("model.source=hub", ALL),
        ("data.system=Brief", ALL),
        ("name=other", set()),
        ("output_dir=elsewhere", set()),
        ("launcher=inline", set()),
        ("tracking=wandb", set()),
        ("tracking=trackio", set()),
        ("hardware=cpu", set()),
        ("hardware.micro_batch_size=1", set()),
        ("hardware.num_threads=1", set()),
        ("trainer.save_steps=3", set()),
        ("trainer.logging_steps=3", set()),
        ("eval.batch_size=1", set()),
        ("eval.examples=3", set()),
    ],
)
def test_a_change_does_again_what_it_must_and_no_more(override: str, again: set[str]) -> None:
    assert changed(plan(), plan(override)) == again


OTHER: dict[str, Any] = {  # values for keys whose default does not tell what another one would be
    "name": "other",
    "output_dir": "elsewhere",
    "model.id": "org/other",
    "model.chat_template": "{{ messages }}",
    "model.add_tokens": ["other"],
    "model.wheel.sha256": "0" * 64,
    "data.path": "eval.jsonl",
    "data.eval_path": "train.jsonl",
    "data.columns": {"prompt": "question"},
    "data.names": ["text"],
    "adapter.target_modules": ["q_proj"],
    "adapter.modules_to_save": ["lm_head"],
    "adapter.exclude_modules": ["q_proj"],
    "adapter.feedforward_modules": ["down_proj"],
    "adapter.layers_to_transform": [1],
    "adapter.rank_pattern": {"q_proj": 4},
    "adapter.alpha_pattern": {"q_proj": 4},
    "adapter.freeze": ["mlp"],
    "trainer.optim_args": {"momentum": 0.5},
    "trainer.label_smoothing_factor": 0.1,
    "trainer.ema_decay": 0.5,
    "adapter.unfreeze": ["norm"],
    "eval.metrics": ["json"],
    "eval.gate": ["'loss < base'"],
    "eval.pattern": "a+",
    "eval.general": "eval.jsonl",
    "eval.json_schema": {"type": "object"},
    "eval.lm_eval.tasks": ["piqa"],
    "eval.judge.url": "http://other",
    "hub.repo_id": "me/other",
    "hardware.num_processes": 2,
    "hardware.zero_stage": 3,
    "model.shape.tie_word_embeddings": False,
    "eval.bootstrap_samples": 200,
    "data.transforms": ["trim"],
    "task.labels": ["other", "more"],
    "task.numbers": [1],
    "task.ignore": [7],
    "task.image_size": 64,
    "task.teacher": "org/other",
    "task.sample_prompts": ["other"],
    "task.matryoshka_dims": [8],
    "task.rewards": {"json": 1.0},
    "task.json_schema": {"type": "object"},
    "task.pattern": "a+",
}
SCORED = {  # a key of a metric or a reward needs it
    "eval.pattern": ["eval.metrics=[regex]", "eval.pattern=b"],
    "eval.num_samples": ["eval.temperature=1"],
    "eval.top_p": ["eval.temperature=1"],
    "eval.judge.url": ["eval.judge.url=http://one", "eval.judge.model=one"],
    "eval.judge.model": ["eval.judge.url=http://one", "eval.judge.model=one"],
    "eval.judge.limit": ["eval.judge.url=http://one", "eval.judge.model=one"],
    "eval.lm_eval.tasks": ["eval.lm_eval.tasks=[arc_easy]"],
    "eval.lm_eval.limit": ["eval.lm_eval.tasks=[arc_easy]"],
    "eval.lm_eval.num_fewshot": ["eval.lm_eval.tasks=[arc_easy]"],
    "eval.lm_eval.apply_chat_template": ["eval.lm_eval.tasks=[arc_easy]"],
    "eval.json_schema": ["eval.metrics=[json_schema]", "eval.json_schema={type:array}"],
    "task.pattern": ["task.rewards={regex:1}", "task.pattern=b"],
    "task.json_schema": ["task.rewards={json_schema:1}", "task.json_schema={type:array}"],
    "task.target_length": ["task.rewards={length:1}", "task.target_length=5"],
    "task.reward_model": ["task.rewards={model:1}", "task.reward_model=org/model"],
    "task.judge_url": ["task.rewards={judge:1}", "task.judge_url=http://one", "task.judge_model=one"],
    "task.judge_model": ["task.rewards={judge:1}", "task.judge_url=http://one", "task.judge_model=one"],
}
NO_ANSWERS = ["eval.metrics=[exact_match]"]  # what tasks refuse that write none
# Where these come in depends on how rows are held out; tests of their own are below.
HELD_OUT_KEYS = "eval_split eval_fraction eval_rows eval_group eval_stratify id config revision split limit"
HELD_OUT = {f"data.{key}" for key in HELD_OUT_KEYS.split()}
MIXED = {"data.mix", "data.mix_rows", "data.mix_temperature"}  # tests/data/test_mix.py
STREAMED = {"data.shuffle_rows", "hardware.num_workers"}  # keys of a stream
SHARING = {"hardware.tp_size", "hardware.cp_size", "hardware.sp_size"}  # of one row
DATABASE = {"data.url", "data.url_env"}  # instead of a path
LOOKS = {"debug.steps", "debug.rows", "debug.share", "debug.lr_min", "debug.lr_max"}  # tests/train/test_debugging.py
RESULTS = {"model.run", "adapter.continue_from"}  # finished runs: tests/model/test_chains.py
SWITCHES = {"eval.enabled", "hub.enabled"}  # these take stages away


def another(key: str, cls: type, spec: dataclasses.Field[Any]) -> Any:
    """A valid value of the key that is neither its default nor what the recipe of the fixture says."""
    if key in OTHER:
        return OTHER[key]
    default, hint = default_of(spec), get_type_hints(cls)[spec.name]
    if hasattr(hint, "__members__"):
        return next(m for m in hint.__members__ if m != default.name)
    if isinstance(default, bool):
        return not default
    if isinstance(default, float):
        return default / 2 + 0.01
    if "float" in str(hint):
        return 1.5
    if isinstance(default, int) or "int" in str(hint):
        return (default if isinstance(default, int) else 5) + 3
    return "other"


@pytest.mark.parametrize("key", sorted(all_keys().keys() - HELD_OUT - DATABASE - MIXED - SWITCHES - RESULTS - LOOKS))
def test_every_key_affects_the_stages_it_says(key: str) -> None:
    cls, spec = all_keys()[key]
    section = key.partition(".")[0]
    base = ["tracking=wandb"] if section == "tracking" else []
    if section == "adapter":
        options = describe(key).options
        base = [f"adapter={'qlora' if 'qlora' in options else options[0]}"]
    if section == "task" and (options := describe(key).options) and "sft" not in options:
        base = [f"task={options[0]}", *NO_ANSWERS, *(["task.teacher=org/teacher"] if options[0] == "distil" else [])]
    base += SCORED.get(key, ["task.rewards={exact:1}"]) if section == "task" and tuple(describe(key).options[:1]) == ("grpo",) else []
    base += SCORED.get(key, []) if section == "eval" else []
    if section == "hardware" and (options := describe(key).options):
        base = [f"hardware={options[0]}"]
    base += ["trainer.padding_free=never", "trainer.save_steps=0", "adapter=full"] if key in SHARING else []
    base += ["hardware.zero_stage=3"] if key == "hardware.offload_param" else []
    base += ["task.packing=true"] if key == "trainer.torch_compile" else []
    base += ["trainer.max_steps=5"] if key in ("data.streaming", *STREAMED) else []
    base += ["data.streaming=true"] if key in STREAMED else []
    base += ["trainer.eval_steps=5"] if key in ("trainer.load_best_model_at_end", "trainer.early_stopping_patience") else []
    base += ["trainer.optim=sgd"] if key == "trainer.optim_args" else []
    base += (
        ["trainer.activation_checkpointing=true"] if key in ("trainer.checkpoint_every_n_layers", "trainer.activation_offloading") else []
    )
    base += ["adapter=full"] if key == "model.init" else []
    value = another(key, cls, spec)
    override = f"{key}={json.dumps(value)}" if isinstance(value, str) else f"{key}={_typed(value)}"
    assert changed(plan(*base), plan(*base, override)) == set(stages_affected(spec))


def _typed(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{k}:{v}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_no_evaluation_takes_its_stages_away_and_never_retrains() -> None:
    without = plan("eval=none")
    assert [s.name for s in without.stages] == ["prepare", "train", "publish"]
    assert changed(plan(), without) == {"baseline", "evaluate", "publish"}


def test_no_publishing_takes_its_stage_away() -> None:
    assert changed(plan(), plan("hub=none")) == {"publish"}


@pytest.mark.parametrize("override", ["data.eval_fraction=0.2", "seed=3", "data.eval_group=customer", "data.eval_stratify=label"])
def test_rows_held_out_of_the_training_rows_are_prepared_again(override: str) -> None:
    held_out = ["data.eval_path=null"]
    assert changed(plan(*held_out), plan(*held_out, override)) == ALL


def test_a_fraction_beside_an_eval_file_is_not_used() -> None:
    assert changed(plan(), plan("data.eval_fraction=0.2")) == set()


@pytest.mark.parametrize(
    ("override", "again"),
    [
        ("data.id=org/b", ALL),
        ("data.revision=v2", ALL),
        ("data.config=en", ALL),
        ("data.eval_split=validation", {"baseline", "evaluate", "publish"}),
        ("data.split='train[:10]'", {"prepare", "train", "evaluate", "publish"}),
        ("data.limit=3", {"prepare", "train", "evaluate", "publish"}),
    ],
)
def test_hub_sets_are_keyed_by_what_is_written(override: str, again: set[str]) -> None:
    hub = ["data.path=null", "data.eval_path=null", "data.id=org/a", "data.eval_split=test"]
    change = [o for o in hub if o.partition("=")[0] != override.partition("=")[0]]
    assert changed(plan(*hub), plan(*change, override)) == again


@pytest.mark.parametrize("override", ["data.url=sqlite:///b.db", "data.query=other"])
def test_a_database_is_keyed_by_what_is_written(override: str) -> None:
    base = ["data.path=null", "data.url=sqlite:///a.db", "data.query=rows"]
    change = [o for o in base if o.partition("=")[0] != override.partition("=")[0]]
    assert changed(plan(*base), plan(*change, override)) == ALL
    assert changed(plan(*base), plan(*base[::2], "data.url_env=DATABASE")) == ALL


def test_content_counts_and_not_the_path(project: Path) -> None:
    before = plan()
    shutil.copy("train.jsonl", "elsewhere.jsonl")
    assert changed(before, plan("data.path=elsewhere.jsonl")) == set()
    write_rows(project / "train.jsonl", 21)
    assert changed(before, plan()) == {"prepare", "train", "evaluate", "publish"}


def test_other_held_out_rows_never_retrain(project: Path) -> None:
    before = plan()
    write_rows(project / "eval.jsonl", 6)
    assert changed(before, plan()) == {"baseline", "evaluate", "publish"}


def test_other_held_out_rows_retrain_when_training_looks_at_them(project: Path) -> None:
    before = plan("trainer.eval_steps=5")
    write_rows(project / "eval.jsonl", 6)
    assert changed(before, plan("trainer.eval_steps=5")) == {"baseline", "train", "evaluate", "publish"}


def test_a_file_changed_within_the_same_size_is_noticed(project: Path) -> None:
    before = plan()
    text = (project / "train.jsonl").read_text(encoding="utf-8")
    (project / "train.jsonl").write_text(text.replace("answer 1", "answer 2"), encoding="utf-8")
    assert "train" in changed(before, plan())


def test_a_local_model_is_keyed_by_its_files(project: Path) -> None:
    folder = project / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    local = ["model=custom", f"model.id={folder}"]
    before = plan(*local)
    assert before.files["model.id"] == [str(folder / "config.json")]
    (folder / "config.json").write_text('{"a": 1}')
    assert changed(before, plan(*local)) == ALL


def test_a_new_field_at_its_default_leaves_keys_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan()
    later = dataclasses.make_dataclass("Later", [("new_field", float, opt(0.5, affects="prepare train"))], bases=(Trainer,), kw_only=True)
    composed = compose("mine.yaml", [], rules=RULES)
    values = {f.name: getattr(composed.recipe.trainer, f.name) for f in dataclasses.fields(Trainer)}
    composed.recipe.trainer = later(**values)
    assert changed(before, make_plan(composed)) == set()
    composed.recipe.trainer = later(**values, new_field=0.6)
    assert changed(before, make_plan(composed)) == {"prepare", "train", "evaluate", "publish"}


def test_a_raised_version_of_a_stage_does_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan()
    monkeypatch.setitem(__import__("tuner.keys", fromlist=["VERSIONS"]).VERSIONS, "train", 2)
    assert changed(before, plan()) == {"train", "evaluate", "publish"}


def test_keys_do_not_depend_on_the_folder_one_stands_in(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = plan()
    (project / "sub").mkdir()
    monkeypatch.chdir(project / "sub")
    assert changed(before, plan(recipe=str(project / "mine.yaml"))) == set()


def test_the_folder_is_the_run_s_name_and_its_train_key(project: Path) -> None:
    made = plan()
    assert made.folder == str(project / "outputs" / "mine" / made.stage("train").key)
    assert len(made.stage("train").key) == 12
    assert made.stage("prepare").folder == str(project / "outputs" / ".cache" / f"prepare-{made.stage('prepare').key}")


def test_a_plan_survives_its_file(project: Path) -> None:
    made = plan("adapter=qlora", "data.columns={prompt: q}", "data.system='a: \"b\"'")
    made.write(project / "plan.json")
    back = read_plan(project / "plan.json")
    assert back == made
    assert back.load_recipe() == compose("mine.yaml", ["adapter=qlora", "data.columns={prompt: q}", "data.system='a: \"b\"'"]).recipe
    assert back.origins["adapter.quant"] == "default"


def test_a_plan_of_a_newer_version_is_refused(project: Path) -> None:
    plan().write(project / "plan.json")
    values = json.loads((project / "plan.json").read_text(encoding="utf-8"))
    (project / "plan.json").write_text(json.dumps(values | {"format": FORMAT + 1, "tuner": "9.0", "unknown": 1}), encoding="utf-8")
    with pytest.raises(TuneError, match="newer than") as caught:
        read_plan(project / "plan.json")
    assert caught.value.code == BAD_RECIPE
    assert "9.0" in caught.value.problems[0].fix
    (project / "plan.json").write_text(json.dumps(values | {"format": FORMAT + 1}), encoding="utf-8")
    with pytest.raises(TuneError, match="newer than") as caught:
        read_plan(project / "plan.json")
    assert caught.value.problems[0].fix.startswith(f"a later build of tuner {values['tuner']} wrote it"), "an upgrade would bring the same"


def test_secrets_of_the_environment_do_not_enter_a_plan(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    plan().write(project / "plan.json")
    assert "hf_very_secret" not in (project / "plan.json").read_text(encoding="utf-8")


def test_an_edited_template_file_does_everything_again(project: Path) -> None:
    template = project / "talk.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}", encoding="utf-8")
    before = plan("model.chat_template=talk.jinja")
    assert changed(before, plan("model.chat_template=talk.jinja")) == set()
    template.write_text("{% for m in messages %}{{ m.content }}<end>{% endfor %}", encoding="utf-8")
    assert changed(before, plan("model.chat_template=talk.jinja")) == ALL
    assert before.load_recipe().model.chat_template == str(template)
    with pytest.raises(TuneError, match="no such file: walk"):
        plan("model.chat_template=walk.jinja")


def test_a_path_in_a_file_is_meant_from_there_and_a_typed_one_from_here(project: Path) -> None:
    folder = project / "team"
    folder.mkdir()
    write_rows(folder / "train.jsonl", 3)
    (folder / "own.yaml").write_text("defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\n", encoding="utf-8")
    assert plan(recipe="team/own.yaml").files["data.path"] == [str(folder / "train.jsonl")]
    assert plan("data.path=train.jsonl", recipe="team/own.yaml").files["data.path"] == [str(project / "train.jsonl")]


def test_a_moved_run_is_looked_up_where_it_lies(project: Path) -> None:
    made = plan()
    old = Path(made.folder)
    (old / "stages").mkdir(parents=True)
    made.write(old / "plan.json")
    new = project / "archive" / "mine" / "copy"
    shutil.copytree(old, new)
    found = read_plan(new / "plan.json")
    assert found.folder == str(new)
    assert {s.folder for s in found.stages} == {
        str(new),
        *(str(project / "archive" / ".cache" / f"{n}-{keys(made)[n]}") for n in ("prepare", "baseline")),
    }
    assert keys(found) == keys(made)
    assert read_plan(old / "plan.json") == made


def test_a_stage_without_its_files_is_not_done(project: Path) -> None:
    folder = project / "x"
    folder.mkdir()
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(b"1234")
    mark_done(folder, "train", "abc", {"steps": 3}, files=[weights])
    assert is_done(folder, "train", "abc")
    weights.write_bytes(b"12")
    assert not is_done(folder, "train", "abc")
    weights.unlink()
    assert not is_done(folder, "train", "abc")


def test_a_changed_local_database_is_noticed(project: Path) -> None:
    def write(value: str) -> None:
        with contextlib.closing(sqlite3.connect(project / "t.db")) as database:
            database.execute("create table if not exists t (prompt, completion)")
            database.execute("insert into t values ('q', ?)", (value,))
            database.commit()

    write("a")
    query = ["data.path=null", "data.url='sqlite:///t.db'", "data.query='select * from t'"]
    before = plan(*query)
    assert changed(before, plan(*query)) == set()
    write("b")
    assert changed(before, plan(*query)) == {"prepare", "train", "evaluate", "publish"}, "the held-out rows are a file of their own"
