"""Real models on real rows, for minutes: MiniLM on SST-2, NCBI disease and STS 2012, SmolLM2 on preferences. All are `slow`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import environ
from tests.tasks import people
from tests.tasks.run import tune
from tuner.runs import read_json

pytestmark = pytest.mark.slow
HEAD = (
    "# real — a test\ndefaults: [{{task: {task}}}, {{model: {model}}}, {{adapter: {adapter}}}, {{hub: none}}]\nmodel: {{dtype: float32}}\n"
)
FP32 = "trainer: {{precision: fp32, batch_size: 32, learning_rate: {rate}, num_train_epochs: {epochs}, logging_steps: 20}}\n"


def measured(
    folder: Path, data: str, *, task: str, rate: float, epochs: int, model: str = "minilm-l6", adapter: str = "lora", more: str = ""
) -> dict[str, dict[str, float]]:
    """`tune recipe=real.yaml` as a person runs it; base and tuned."""
    recipe = HEAD.format(task=task, model=model, adapter=adapter) + f"data: {{{data}}}\n" + FP32.format(rate=rate, epochs=epochs) + more
    (folder / "real.yaml").write_text(recipe, encoding="utf-8")
    done = tune(folder, "recipe=./real.yaml", env=environ(OMP_NUM_THREADS="2"))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "outputs" / "real").iterdir()
    found: dict[str, dict[str, float]] = read_json(run / "metrics.json")
    return found


def test_sentiment(tmp_path: Path, shared_data: Path) -> None:
    """LoRA, 2,000 rows: 0.80 and more of the 872 held-out ones."""
    sets = f"path: {shared_data}/sst2/train.tsv, eval_path: {shared_data}/sst2/dev.tsv, names: [text, label], limit: 2000"
    found = measured(tmp_path, sets, task="classify", rate=1e-3, epochs=2)
    assert found["tuned"]["accuracy"] >= 0.80 > found["base"]["accuracy"] + 0.2


def test_diseases(tmp_path: Path, shared_data: Path) -> None:
    """Full fine-tuning, one pass: entity F1 of 0.60 and more."""
    sets = f"path: {shared_data}/ncbi_disease/train.tsv, eval_path: {shared_data}/ncbi_disease/devel.tsv"
    found = measured(tmp_path, sets, task="tag", rate=3e-4, epochs=1, adapter="full")
    assert found["tuned"]["f1"] >= 0.60 > found["base"]["f1"]


def test_likeness(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "sts2012"
    sets = f"path: {folder}/MSRpar.train.tsv, eval_path: {folder}/MSRpar.test.tsv, names: [score, sentence1, sentence2]"
    found = measured(tmp_path, sets, task="embed", rate=3e-4, epochs=2)
    assert found["tuned"]["spearman"] > found["base"]["spearman"] + 0.03


def test_answers(tmp_path: Path) -> None:
    """Full fine-tuning on 400 questions that a program wrote, about people, towns and years that do not occur in the held-out ones."""
    people.write(tmp_path)
    sets = f"path: {tmp_path}/train.jsonl, eval_path: {tmp_path}/eval.jsonl"
    found = measured(tmp_path, sets, task="qa", rate=3e-4, epochs=6, adapter="full")
    assert found["tuned"]["exact_match"] > 0.8 > found["base"]["exact_match"] + 0.6


def test_preferences(tmp_path: Path, shared_data: Path) -> None:
    sets = f"path: {shared_data}/dpo_en/train.json, eval_rows: 30, limit: 110"
    more = "task: {max_length: 192}\neval: {generate: false}\nhardware: {micro_batch_size: 4}\n"
    found = measured(tmp_path, sets, task="dpo", rate=3e-4, epochs=1, model="smollm2-135m", more=more)
    assert found["tuned"]["margin"] > found["base"]["margin"]
