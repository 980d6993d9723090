"""SmolLM2 on real conversations, pairs and problems, for minutes: calls of functions, reasoning, preferences, rewards. All are `slow`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.real import HEAD, measured, ran, write

pytestmark = pytest.mark.slow
SMOL: dict[str, Any] = {"model": "smollm2-135m", "epochs": 1, "batch": 8}
SHORT = "task: {max_length: 192}\neval: {generate: false}\nhardware: {micro_batch_size: 4}\n"


def test_calls_of_functions(tmp_path: Path, shared_data: Path) -> None:
    """Most calls are valid by the functions' schemas after 120 conversations, and hardly one was before."""
    recipe = HEAD.format(task="sft", model="smollm2-135m", adapter="lora").replace("{hub: none}", "{eval: tools}, {hub: none}")
    recipe += "task: {max_length: 768}\n"
    recipe += f"data: {{path: {shared_data}/toolcall_en/train.json, eval_rows: 24, limit: 144}}\neval: {{max_new_tokens: 64}}\n"
    recipe += "trainer: {precision: fp32, batch_size: 8, learning_rate: 1e-3, num_train_epochs: 1, save_steps: 0}\n"
    found = ran(tmp_path, recipe)
    assert found["tuned"]["valid_call"] > 0.6 > found["base"]["valid_call"] + 0.4


def test_reasoning(tmp_path: Path, shared_data: Path) -> None:
    """Worked answers to school problems surprise it less."""
    sets = f"path: {shared_data}/gsm8k/train.jsonl, eval_rows: 40, limit: 200"
    found = measured(tmp_path, sets, task="sft", rate=1e-3, more=SHORT, **SMOL)
    assert found["tuned"]["loss"] < 0.9 * found["base"]["loss"]


@pytest.mark.parametrize(("task", "moves"), [("dpo", "margin"), ("simpo", "margin"), ("orpo", "chosen_loss")])
def test_preferences(tmp_path: Path, shared_data: Path, task: str, moves: str) -> None:
    """The better answers of held-out pairs gain on the worse ones (ORPO: become likelier); too few pairs to turn which is likelier."""
    sets = f"path: {shared_data}/dpo_en/train.json, eval_rows: 30, limit: 110"
    found = measured(tmp_path, sets, task=task, rate=3e-4, more=SHORT, **SMOL)
    gained = found["tuned"][moves] - found["base"][moves]
    assert (gained < 0) if moves == "chosen_loss" else (gained > 0)


def test_what_was_liked(tmp_path: Path, shared_data: Path) -> None:
    """KTO on single answers, half of them liked: what was liked gains on what was not, by little after so few."""
    sets = f"path: {shared_data}/kto_en/train.json, eval_rows: 40, limit: 200"
    found = measured(tmp_path, sets, task="kto", rate=3e-4, more=SHORT, **SMOL)
    assert found["tuned"]["margin"] > found["base"]["margin"]


def test_a_reward_model(tmp_path: Path, shared_data: Path) -> None:
    """It tells the better answer of a held-out pair more often than a coin does."""
    sets = f"path: {shared_data}/dpo_en/train.json, eval_rows: 60, limit: 300"
    found = measured(tmp_path, sets, task="reward", rate=5e-4, more=SHORT, **SMOL)
    assert found["tuned"]["preference_accuracy"] > 0.55


@pytest.mark.parametrize("task", ["grpo", "rloo", "online_dpo"])
def test_sums_by_its_own_attempts(tmp_path: Path, task: str) -> None:
    pairs = [(a, b) for a in range(2, 50) for b in range(2, 50)]
    random.Random(0).shuffle(pairs)
    for name, part in (("train", pairs[:400]), ("dev", pairs[400:440])):
        write(tmp_path, name, [{"prompt": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in part])
    recipe = HEAD.format(task=task, model="smollm2-135m", adapter="lora")
    recipe += "task: {rewards: {numeric: 1}, num_generations: 8, max_completion_length: 24, max_length: 64}\n"
    recipe += "data: {path: train.jsonl, eval_path: dev.jsonl}\nhardware: {micro_batch_size: 2}\n"
    recipe += "trainer: {precision: fp32, batch_size: 8, learning_rate: 2e-4, max_steps: 14}\n"
    assert (found := ran(tmp_path, recipe))["tuned"]["reward"] > found["base"]["reward"] + 0.1
