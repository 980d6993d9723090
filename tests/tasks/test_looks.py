"""Every task composes with `debug=fast`, which shortens what each has; and an option that does not fit is told where it was chosen."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.checks import RULES
from tuner.errors import TuneError
from tuner.schema.compose import compose
from tuner.schema.documents import list_options

NEEDED = dict.fromkeys(("grpo", "rloo", "online_dpo"), ("task.rewards={numeric:1}",)) | {"distil": ("task.teacher=org/teacher",)}


@pytest.mark.parametrize("task", list_options("task"))
def test_a_task_is_tried_fast(task: str, project: Path) -> None:
    overrides = ["debug=fast", "model.id=org/name", "data.path=train.jsonl", "data.eval_path=eval.jsonl", "eval.metrics=[exact_match]"]
    recipe = compose("./mine.yaml", [f"task={task}", *overrides, *NEEDED.get(task, ())], rules=RULES).recipe
    assert recipe.trainer.max_steps == 3
    assert getattr(recipe.task, "max_completion_length", 16) <= 16


@pytest.mark.parametrize("task", ["classify", "dpo", "distil", "diffusion", "embed"])
def test_gradient_noise_is_measured_of_next_tokens(task: str, project: Path) -> None:
    overrides = [f"task={task}", "debug=noise", "eval.metrics=[exact_match]", *NEEDED.get(task, ())]
    with pytest.raises(TuneError) as told:
        compose("./mine.yaml", overrides, rules=RULES)
    assert any("`debug=noise` counts the tokens" in problem.what for problem in told.value.problems)


@pytest.mark.parametrize("option", ["hardware=fsdp", "debug=lr"])
def test_an_option_is_told_where_it_was_chosen(option: str, project: Path) -> None:
    overrides = ["task=grpo", "task.rewards={numeric:1}", "eval.metrics=[exact_match]"]
    with pytest.raises(TuneError) as typed:
        compose("./mine.yaml", [*overrides, option], rules=RULES)
    assert option in [problem.where for problem in typed.value.problems]
    mine = "{task: grpo}, {" + option.replace("=", ": ") + "}"
    rows = "data: {path: train.jsonl, eval_path: eval.jsonl}\n"
    (project / "other.yaml").write_text(f"# other — a test\ndefaults: [{mine}]\nmodel: {{id: org/name}}\n{rows}", encoding="utf-8")
    with pytest.raises(TuneError) as written:
        compose("./other.yaml", overrides, rules=RULES)
    assert any(problem.where.endswith("other.yaml:2") for problem in written.value.problems)


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        ("classify", "data.tokenizer=fast"),
        ("dpo", "data.tokenizer=fast"),
        ("vlm", "hardware.fused_kernels=always"),
        ("tag", "hardware.fused_kernels=always"),
        ("reward", "eval.max_new_tokens=5"),
        ("pretrain", "eval.max_new_tokens=5"),
        ("classify_image", "data.overlong=drop"),
        ("classify_audio", "data.overlong=drop"),
    ],
)
def test_what_a_task_does_not_read_is_told(task: str, asked: str, project: Path) -> None:
    key = asked.partition("=")[0]
    with pytest.raises(TuneError) as told:
        compose("./mine.yaml", [f"task={task}", "eval.metrics=[exact_match]", asked], rules=RULES)
    assert next(p.what.partition(":")[0] for p in told.value.problems if key in p.what).startswith(f"`task={task}` has no use for `{key}")
    compose("./mine.yaml", ["eval.metrics=[exact_match]", asked], rules=RULES)
