"""What a dry run promises: parameters, trainable parameters, steps and tokens against counts made by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import write_rows
from tuner.checks import RULES
from tuner.cli import main
from tuner.estimate import Estimate, estimate
from tuner.plan import make_plan
from tuner.schema.compose import compose

pytestmark = pytest.mark.usefixtures("project")

HIDDEN, INNER, LAYERS, KEYS, VOCABULARY = 576, 1536, 30, 192, 49152  # SmolLM2-135M; keys and values of 3 heads of 64


def size(*overrides: str) -> Estimate:
    return estimate(make_plan(compose("mine.yaml", [*overrides], rules=RULES)))


def lora(r: int, *maps: tuple[int, int]) -> int:
    """Two matrices beside each linear map: (inputs × r) and (r × outputs)."""
    return LAYERS * sum(r * inputs + r * outputs for inputs, outputs in maps)


Q, K, V, O = (HIDDEN, HIDDEN), (HIDDEN, KEYS), (HIDDEN, KEYS), (HIDDEN, HIDDEN)  # noqa: E741
GATE, UP, DOWN = (HIDDEN, INNER), (HIDDEN, INNER), (INNER, HIDDEN)


def test_parameters_of_smollm2() -> None:
    assert size().parameters == 134_515_008


@pytest.mark.parametrize(
    ("overrides", "trainable"),
    [
        ([], lora(16, Q, K, V, O, GATE, UP, DOWN)),
        (["adapter.r=4"], lora(4, Q, K, V, O, GATE, UP, DOWN)),
        (["adapter.target_modules=[q_proj,v_proj]"], lora(16, Q, V)),
        (["adapter=dora"], lora(16, Q, K, V, O, GATE, UP, DOWN) + LAYERS * (576 + 192 + 192 + 576 + 1536 + 1536 + 576)),
        (["adapter=qlora"], lora(16, Q, K, V, O, GATE, UP, DOWN)),
        (["adapter=full"], 134_515_008),
        (["adapter.target_modules='.*_proj'"], None),
        (["adapter.modules_to_save=[lm_head]"], None),
    ],
)
def test_trainable_parameters(overrides: list[str], trainable: int | None) -> None:
    assert size(*overrides).trainable == trainable


def test_lora_of_rank_16_is_the_number_peft_prints() -> None:
    assert size().trainable == 4_884_480


@pytest.mark.parametrize(
    ("overrides", "steps"),
    [
        ([], 3),  # 20 rows by 8, the last batch is short
        (["trainer.num_train_epochs=2"], 6),
        (["trainer.num_train_epochs=0.5"], 2),
        (["trainer.batch_size=32"], 1),
        (["trainer.max_steps=7"], 7),
        (["data.limit=5", "trainer.batch_size=2"], 3),
        (["data.eval_path=null", "data.eval_fraction=0.5"], 2),
    ],
)
def test_steps(overrides: list[str], steps: int) -> None:
    assert size(*overrides).steps == steps


def test_rows_are_those_left_after_holding_out() -> None:
    assert size().rows == 20
    assert size("data.eval_path=null", "data.eval_fraction=0.25").rows == 15


def test_full_rows_are_counted_by_what_they_hold(project: Path) -> None:
    (project / "texts.txt").write_text(f"{'x' * 399}\n" * 100, encoding="utf-8")  # about 10,000 tokens
    given = ("task=pretrain", "data.path=texts.txt", "data.eval_path=texts.txt", "task.max_length=512")
    assert (size(*given).rows, size(*given).steps) == (20, 3)
    assert size("task.packing=true", "task.max_length=32").rows == 9, "20 rows of about 52 characters"


def test_nothing_is_claimed_about_a_model_that_is_not_known() -> None:
    found = size("model=custom", "model.id=org/unknown", "model.source=hub")
    assert (found.parameters, found.trainable, found.memory_bytes) == (None, None, None)
    assert found.steps == 3


def test_a_local_model_s_dimensions_are_read(project: Path) -> None:
    folder = project / "model"
    folder.mkdir()
    config = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 100}
    (folder / "config.json").write_text(json.dumps(config))
    block = 4 * 32 * 32 + 3 * 32 * 64 + 2 * 32
    assert size("model=custom", f"model.id={folder}").parameters == 2 * block + 2 * 100 * 32 + 32


def test_quantising_the_base_needs_less_memory_and_full_training_more() -> None:
    gpu = ("hardware.device=cuda", "hardware.memory_gb=80")  # on a CPU what unpacking needs outweighs it
    memory = {a: size(f"adapter={a}", *gpu).memory_bytes or 0 for a in ("qlora", "lora", "full")}
    assert memory["qlora"] < memory["lora"] < memory["full"]


def test_recomputing_activations_needs_less_memory() -> None:
    assert (size("trainer.activation_checkpointing=true").memory_bytes or 0) < (size().memory_bytes or 0)


def test_a_row_that_is_longer_counts_more_tokens(project: Path) -> None:
    short = size().tokens or 0
    (project / "train.jsonl").write_text(json.dumps({"prompt": "x" * 4000, "completion": "y"}) + "\n", encoding="utf-8")
    assert (size("trainer.batch_size=1").tokens or 0) > short > 0


def test_an_empty_file_has_no_rows(project: Path) -> None:
    write_rows(project / "train.jsonl", 0)
    assert size().rows == 0


def test_rows_of_a_mix_are_those_that_its_weights_allow(project: Path) -> None:
    write_rows(project / "other.jsonl", 12)
    mix = "data.mix={one: {path: train.jsonl, weight: 3}, other: {path: other.jsonl, weight: 1}}"
    found = size("data.path=null", "data.eval_path=null", "data.eval_fraction=0.25", mix)
    assert found.rows == 15 + 5, "15 and 9 are left, of which 3 : 1"
    assert found.tokens


@pytest.mark.parametrize(
    ("task", "counts"),
    [("seq2seq", True), ("vlm", False), ("transcribe", False), ("classify_audio", False), ("classify_image", False)],
)
def test_of_models_that_are_not_planned_for_nothing_is_claimed(task: str, counts: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that name images or recordings hold no tokens of them; a configuration like a language model's (wav2vec2) is none."""
    Path("model").mkdir()
    llama = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
    Path("model/config.json").write_text(json.dumps({"model_type": "wav2vec2"} | llama))
    Path("other.yaml").write_text(f"defaults: [{{task: {task}}}]\nmodel: {{id: ./model}}\ndata: {{path: train.jsonl}}\n")
    found = estimate(make_plan(compose("other.yaml", [], rules=RULES)))
    assert (found.parameters, found.trainable, found.memory) == (None, None, None)
    assert (found.tokens is not None) == counts
    assert main(["recipe=other.yaml", "dry_run=true"]) == 0
    said = capsys.readouterr().out
    assert "memory     not worked out for such models" in said
    assert "trainable" not in said
    assert ("\ntokens " in said) == counts
