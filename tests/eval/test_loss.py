"""Held-out loss row by row is what transformers computes for each row alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from tests.lab import tiny_model
from tuner.data.chat import TokenRow
from tuner.eval import loss as module
from tuner.eval.loss import row_losses

# PEFT reads what transformers deprecates (see pyproject.toml).
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def make_rows() -> list[TokenRow]:
    draw = np.random.default_rng(0)
    rows = []
    for length in (3, 40, 7, 1, 25, 40, 100):
        rows.append(TokenRow(ids=draw.integers(0, 258, length, dtype=np.int32), trained=draw.random(length) < 0.5, truncated=False))
    rows[2].trained[:] = False
    rows[4].trained[:] = True  # the first token is marked, and nothing predicts it
    return rows


@pytest.fixture(scope="module", params=["base", "lora"])
def model(request: pytest.FixtureRequest) -> Any:
    loaded = AutoModelForCausalLM.from_pretrained(str(tiny_model()), dtype=torch.float32).eval()
    if request.param == "lora":
        torch.manual_seed(0)
        return get_peft_model(loaded, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)).eval()
    return loaded


def reference(model: Any, row: TokenRow) -> tuple[float, int]:
    ids = torch.tensor([row.ids.tolist()])
    labels = torch.where(torch.tensor(row.trained), ids, -100)
    count = int((labels[:, 1:] != -100).sum())
    with torch.inference_mode():
        return (float(model(input_ids=ids, labels=labels).loss) * count if count else 0.0), count


@pytest.mark.parametrize("tokens_per_batch", [1, 60, 2048])
def test_each_rows_loss_is_that_of_a_plain_forward(model: Any, monkeypatch: pytest.MonkeyPatch, tokens_per_batch: int) -> None:
    monkeypatch.setattr(module, "TOKENS_PER_BATCH", tokens_per_batch)
    rows, done = make_rows(), []
    found = row_losses(model, rows, tick=done.append)
    expected = [reference(model, row) for row in rows]
    assert [count for _, count in found] == [count for _, count in expected]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in expected], rel=1e-5, abs=1e-5)
    assert found[2] == (0.0, 0)
    assert done[-1] == len(rows)
