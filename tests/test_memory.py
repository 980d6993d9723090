"""The memory plan against counts made by hand, and what it chooses where memory is short."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tuner.capacity import Capacity
from tuner.checks import RULES
from tuner.cli import main
from tuner.memory import Cuts, Load, edits, need
from tuner.placement import choose
from tuner.plan import make_plan
from tuner.schema.compose import compose
from tuner.schema.recipe import Recipe

pytestmark = pytest.mark.usefixtures("project")
SMOLLM2 = {
    "hidden_size": 576,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "intermediate_size": 1536,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
}


def recipe(*overrides: str) -> Recipe:
    return make_plan(compose("mine.yaml", [*overrides], rules=RULES)).load_recipe()


def parts(*overrides: str, **load: Any) -> Any:
    return need(recipe(*overrides), SMOLLM2, Load(rows=4, length=512, **load))


def test_weights_gradients_and_states_of_lora_and_full() -> None:
    lora, full = parts(), parts("adapter=full")
    assert (lora.weights, lora.gradients, lora.optimizer) == (134_515_008 * 2 + 4_884_480 * 4, 4_884_480 * 4, 4_884_480 * 8)
    assert (full.weights, full.gradients, full.optimizer) == (134_515_008 * 4, 134_515_008 * 4, 134_515_008 * 8)
    assert parts("adapter=full", cuts=Cuts(weights=4)).weights == 134_515_008


def test_what_a_block_keeps_is_what_autograd_keeps() -> None:
    """24,980 bytes a token and block were counted with saved-tensor hooks over SmolLM2's shape, LoRA r=16, weights' casts included."""
    found = parts(cpu=False).activations / (4 * 512) / 30
    assert found == pytest.approx(24_980, rel=0.06)


@pytest.mark.parametrize(
    ("gb", "rows", "recompute", "fits"), [(100, 8, False, True), (4.0, 4, False, True), (1.55, 1, True, True), (0.5, 1, True, False)]
)
def test_what_fits_is_chosen(gb: float, rows: int, recompute: bool, fits: bool) -> None:
    place = Capacity(bytes=round(gb * 1e9), cpu=True, source="said")
    chosen = choose(recipe("trainer.batch_size=8"), SMOLLM2, length=512, place=place)
    assert chosen is not None
    assert (chosen.micro_batch, chosen.micro_batch * chosen.accumulation, chosen.activation_checkpointing) == (rows, 8, recompute)
    assert chosen.fits is fits


def test_a_written_micro_batch_is_kept() -> None:
    place = Capacity(bytes=10**9, cpu=True, source="said")
    chosen = choose(recipe("hardware.micro_batch_size=4"), SMOLLM2, length=512, place=place)
    assert chosen is not None
    assert (chosen.micro_batch, chosen.activation_checkpointing, chosen.fits) == (4, False, False)
    assert chosen.said.endswith("it does not fit")


def test_changes_are_ranked_by_what_they_save() -> None:
    found = edits(recipe(), SMOLLM2, Load(rows=1, length=1024))
    assert [saved for _, saved in found] == sorted((saved for _, saved in found), reverse=True)
    assert found[0][0] == "trainer.activation_checkpointing=true"


def test_the_verb_prints_a_table_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "memory", "recipe=mine.yaml", "hardware.memory_gb=3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] == {"bytes": 3_000_000_000, "usable_bytes": 2_700_000_000, "source": "hardware.memory_gb"}
    assert {row["strategy"] for row in found["table"]} == {"full", "lora", "qlora"}
    assert all(row["fits"] == (row["total"] <= 2_700_000_000) for row in found["table"])
    assert main(["plan", "disk", "recipe=mine.yaml"]) == 2
