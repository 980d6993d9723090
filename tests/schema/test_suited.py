"""Learning rates and metrics that suit task and adapter, where nobody has said others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.checks import RULES
from tuner.schema.compose import compose
from tuner.schema.documents import list_options
from tuner.schema.suited import RATES


@pytest.mark.parametrize(
    ("overrides", "rate"),
    [
        ((), 2e-4),
        (("adapter=full",), 2e-5),
        (("task=classify", "adapter=full"), 5e-5),
        (("task=classify",), 5e-4),
        (("task=dpo",), 5e-5),
        (("task=summarize", "adapter=dora"), 1e-3),
        (("task=pretrain", "adapter=full", "model.init=random"), 5e-4),
        (("task=dpo", "trainer.learning_rate=2e-4"), 2e-4),
    ],
)
def test_rates(overrides: tuple[str, ...], rate: float, project: Path) -> None:
    (project / "mine.yaml").write_text(
        "# mine\nmodel: {id: org/name}\ndata: {path: train.jsonl, eval_path: eval.jsonl}\n", encoding="utf-8"
    )
    found = compose("./mine.yaml", list(overrides), rules=RULES)
    assert found.recipe.trainer.learning_rate == rate


def test_every_task_has_its_rates() -> None:
    assert sorted(task for tasks in RATES for task in tasks) == sorted(list_options("task"))


def test_what_a_recipe_says_comes_before(project: Path) -> None:
    text = "# mine\ndefaults: [{task: translate}]\nmodel: {id: org/name}\ndata: {path: train.jsonl, eval_path: eval.jsonl}\n"
    (project / "mine.yaml").write_text(text, encoding="utf-8")
    found = compose("./mine.yaml", [], rules=RULES)
    assert found.recipe.eval.metrics == ["bleu", "chrf"]
    assert found.reading.where("eval.metrics") == "task=translate with adapter=lora"
    (project / "other.yaml").write_text(text + "trainer: {learning_rate: 0.01}\neval: {metrics: [exact_match]}\n", encoding="utf-8")
    said = compose("./other.yaml", [], rules=RULES).recipe
    assert (said.trainer.learning_rate, said.eval.metrics) == (0.01, ["exact_match"])
