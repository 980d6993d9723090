"""Out of memory: smaller parts give the same losses and weights, no sample is lost; where that cannot help, three changes are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.lab import Lab, losses_of, make_lab, train, weights_of
from tuner.errors import ENVIRONMENT, TuneError
from tuner.model import packed
from tuner.train.oom import out_of_memory, rows_of, split

SIX_STEPS = ("trainer.max_steps=6", "trainer.batch_size=8")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path)


def trained(lab: Lab, *overrides: str) -> tuple[list[float], dict[str, torch.Tensor], dict[str, Any]]:
    run = lab.run(*SIX_STEPS, *overrides)
    facts = train(run)
    return losses_of(run.folder), weights_of(run.folder), facts


def small_memory(monkeypatch: pytest.MonkeyPatch, *, rows: int, after: int = 0, backward: bool = False) -> list[int]:
    """A model whose memory holds so many rows, from the call `after` on; `backward`: it runs out once gradients have begun to be made."""
    real, seen = packed.forward_loss, list[int]()

    def forward(model: Any, batch: Any, num_items: Any, **options: Any) -> Any:
        seen.append(rows_of(batch))
        full = rows_of(batch) > rows and len(seen) > after
        if full and not backward:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        loss = real(model, batch, num_items, **options)
        if full:
            loss.backward(retain_graph=True)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    monkeypatch.setattr(packed, "forward_loss", forward)
    return seen


@pytest.mark.parametrize(
    ("micro", "rows", "after", "backward"),
    [(8, 3, 0, False), (8, 1, 0, False), (4, 2, 1, False), (4, 2, 5, True)],
    ids=["at once", "down to one row", "in the second micro-batch of a step", "in a backward pass, later"],
)
def test_smaller_parts_change_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch, micro: int, rows: int, after: int, backward: bool) -> None:
    losses, weights, facts = trained(lab, "name=whole", f"hardware.micro_batch_size={micro}")
    seen = small_memory(monkeypatch, rows=rows, after=after, backward=backward)
    lab.told.clear()
    again, smaller, then = trained(lab, "name=small", f"hardware.micro_batch_size={micro}")
    assert max(seen[after + 4 :]) <= rows, "smaller parts are kept"
    assert again == pytest.approx(losses, abs=2e-5)
    assert (then["tokens"], then["steps"]) == (facts["tokens"], facts["steps"])
    for name, weight in weights.items():
        torch.testing.assert_close(smaller[name], weight, atol=2e-4, rtol=1e-3)
    said = [text for text in lab.told if "out of memory" in text]
    assert said == [f"out of memory with {micro} rows at once: {micro // 2} from here on, the global batch is kept"]


def test_parts_hold_the_rows_of_the_whole() -> None:
    rows = [{"input_ids": [n] * n, "labels": [n] * n} for n in (3, 1, 4, 2, 5)]
    parts = split(packed.flatten(rows), 2)
    expected = [packed.flatten(rows[first : first + 2]) for first in (0, 2, 4)]
    for part, whole in zip(parts, expected, strict=True):
        assert part.keys() == whole.keys()
        for name, value in whole.items():
            assert torch.equal(part[name], value) if isinstance(value, torch.Tensor) else part[name] == value


def test_one_row_that_is_too_much_names_three_changes(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    small_memory(monkeypatch, rows=0)
    with pytest.raises(TuneError, match="out of memory with one row at once: CUDA out of memory") as caught:
        trained(lab, "hardware.micro_batch_size=8")
    assert caught.value.code == ENVIRONMENT
    fix = caught.value.problems[0].fix
    assert fix.count(" saves about ") == 3
    assert "`trainer.activation_checkpointing=true`" in fix
    savings = [float(part.split(" GiB")[0]) for part in fix.split("saves about ")[1:]]
    assert savings == sorted(savings, reverse=True)


def test_other_errors_are_not_taken_for_it() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


def test_what_is_chosen_is_said_and_fits(lab: Lab) -> None:
    run = lab.run(*SIX_STEPS, "hardware.memory_gb=100")
    train(run)
    assert any(text.startswith("memory plan: micro-batch 8 × 1, recomputation off") for text in lab.told)
    assert json.loads((run.folder / "train_log.jsonl").read_text().splitlines()[0])
