"""Every shipped recipe plans, says what it is for, and is valid by the schema that editors use."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.conftest import ROOT
from tuner.capacity import capacity
from tuner.checks import RULES
from tuner.estimate import longest, shape
from tuner.placement import choose
from tuner.plan import make_plan
from tuner.schema.compose import compose
from tuner.schema.documents import SHIPPED_RECIPES, list_options, read
from tuner.schema.json_schema import json_schema
from tuner.schema.recipe import GROUPS

RECIPES = sorted(SHIPPED_RECIPES.rglob("*.yaml"))
SCHEMA = ROOT / "recipe.schema.json"
recipes = pytest.mark.parametrize("path", RECIPES, ids=[str(p.relative_to(SHIPPED_RECIPES).with_suffix("")) for p in RECIPES])


@pytest.fixture(scope="module")
def validator() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.usefixtures("project")
@recipes
def test_a_shipped_recipe_plans(path: Path) -> None:
    plan = make_plan(compose(str(path.relative_to(SHIPPED_RECIPES).with_suffix("")), [], rules=RULES))
    assert {"prepare", "train"} <= {s.name for s in plan.stages}


@recipes
def test_a_shipped_recipe_is_short_and_says_what_it_is(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    name = str(path.relative_to(SHIPPED_RECIPES).with_suffix(""))
    assert len(read(path).summary) > 20
    assert any(f"tune recipe={name}" in line for line in lines if line.startswith("#"))
    assert len([line for line in lines if line and not line.startswith("#")]) <= 12


@pytest.mark.usefixtures("project")
@recipes
def test_a_shipped_recipe_fits_the_gpu_that_it_names(path: Path) -> None:
    named = re.search(r"GPUs? of (\d+) GB", read(path).summary)
    if not named:
        assert "CPU" in read(path).summary
        return
    given = [f"hardware.memory_gb={named[1]}", "hardware.device=cuda"]
    plan = make_plan(compose(str(path.relative_to(SHIPPED_RECIPES).with_suffix("")), given, rules=RULES))
    dimensions, recipe = shape(plan), plan.load_recipe()
    if dimensions is not None:
        chosen = choose(recipe, dimensions, length=longest(plan), place=capacity(recipe.hardware))
        assert chosen is not None
        assert chosen.need.total < 0.95e9 * float(named[1])


@recipes
def test_a_shipped_recipe_says_how_long_and_what_to_expect(path: Path) -> None:
    assert re.search(r"\d ?(h|min|minutes)\b|½ minutes", read(path).summary)
    assert path.stem == "quickstart" or re.search(r"estimates?\).*expect .*\(.*not run here\)|not run here\)", read(path).summary)


@recipes
def test_a_shipped_recipe_is_valid_for_an_editor(path: Path, validator: jsonschema.Draft202012Validator) -> None:
    assert [e.message for e in validator.iter_errors(read(path).data)] == []


@recipes
def test_the_editor_line_leads_to_the_schema(path: Path) -> None:
    found = re.match(r"# yaml-language-server: \$schema=(\S+)\n", path.read_text(encoding="utf-8"))
    assert found, f"the first line is `# yaml-language-server: $schema={os.path.relpath(SCHEMA, path.parent)}`"
    assert (path.parent / found[1]).resolve() == SCHEMA


@pytest.mark.usefixtures("project")
def test_the_committed_schema_is_current() -> None:
    assert json.loads(SCHEMA.read_text(encoding="utf-8")) == json_schema(), "run `tune schema recipe.schema.json` and commit it"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(json.loads(SCHEMA.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "recipe",
    [
        {"trainer": {"lr": 1}},
        {"trainer": {"learning_rate": 11}},
        {"trainer": {"optim": "adam"}},
        {"trainer": {"optim": "${oc.env:HF_TOKEN}"}},
        {"seed": -1},
        {"adapter": {"rank": 3}},
        {"adapter": "lora"},
        {"defaults": [{"modl": "x"}]},
        {"defaults": [{"adapter": "lorra"}]},
        {"defaults": {"adapter": "lora"}},
        {"data": {"columns": {"prompt": 1}}},
        {"unknown": 1},
    ],
    ids=str,
)
def test_the_schema_refuses(recipe: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    assert not validator.is_valid(recipe)


@pytest.mark.parametrize(
    "recipe",
    [
        {"trainer": {"learning_rate": 1e-4, "max_steps": None, "eval_steps": "${trainer.batch_size}"}},
        {"adapter": {"quant": "nf4", "r": 3}},
        {"adapter": {"target_modules": ["q_proj"]}},
        {"adapter": {"target_modules": "all-linear"}},
        {"data": {"columns": {"prompt": "question"}}},
        {"model": {"wheel": None}},
        {"defaults": [{"recipe": "my/own"}, "_self_", {"adapter": "dora"}]},
    ],
    ids=str,
)
def test_the_schema_takes(recipe: dict[str, Any], validator: jsonschema.Draft202012Validator) -> None:
    assert [e.message for e in validator.iter_errors(recipe)] == []


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o, path in list_options(g).items() if path is not None])
def test_a_value_file_says_what_it_is_in_its_first_line(group: str, option: str) -> None:
    path = list_options(group)[option]
    assert path is not None
    assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("group", "option"), [(g, o) for g in GROUPS for o in list_options(g) if o != "custom"])
def test_every_option_composes(group: str, option: str) -> None:
    found = compose("mine.yaml", [f"{group}={option}"])
    assert found.reading.choices[group] == option
