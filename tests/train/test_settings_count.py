"""Each further setting of an optimizer, and each way to keep activations, does something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.lab import make_lab, train, weights_of
from tuner.schema.trainer import OPTIM_ARGS, PROJECTED, SCHEDULE_FREE, Optim

OTHER: dict[str, Any] = {
    "momentum": 0.9,
    "dampening": 0.5,
    "nesterov": "true",
    "r": 2,
    "weight_lr_power": 0,
    "rank": 2,
    "update_proj_gap": 1,
    "scale": 0.5,
    "proj_type": "right",
    "proj": "svd",
    "scale_type": "tensor",
}
BESIDE = {"dampening": "momentum: 0.9, ", "nesterov": "momentum: 0.9, "}  # what a setting is a part of


@pytest.mark.parametrize(("optim", "name"), [(o, n) for o, names in OPTIM_ARGS.items() for n in names])
def test_each_setting_of_an_optimizer_gives_another_model(tmp_path: Path, optim: Optim, name: str) -> None:
    lab = make_lab(tmp_path)
    given = [f"trainer.optim={optim.value}", "trainer.max_steps=4", "trainer.learning_rate=1e-2", "trainer.save_steps=0"]
    given += ["trainer.lr_scheduler_type=constant"] if optim in SCHEDULE_FREE else []
    given += ["adapter=full"] if optim in PROJECTED else []
    given += ["trainer.warmup_ratio=0.5"] if name == "weight_lr_power" else []  # it weighs steps by their rate
    rank = "rank: 4, " if optim in PROJECTED and name != "rank" else ""
    before = f"trainer.optim_args={{{rank}{BESIDE.get(name, '')}}}".replace(", }", "}")
    after = f"trainer.optim_args={{{rank}{BESIDE.get(name, '')}{name}: {OTHER[name]}}}"
    found = []
    for run_name, args in (("a", before), ("b", after)):
        run = lab.run(*given, args, f"name={run_name}")
        train(run)
        found.append(weights_of(run.folder, "model.safetensors" if optim in PROJECTED else "adapter_model.safetensors"))
    assert any(not torch.equal(found[0][key], found[1][key]) for key in found[0])


@pytest.mark.parametrize(("every", "layers"), [(1, 2), (2, 1)])
def test_only_every_nth_layer_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, layers: int) -> None:
    """Each forward pass of a layer is counted: those that are recomputed run twice a step."""
    run = make_lab(tmp_path).run(
        "trainer.activation_checkpointing=true", f"trainer.checkpoint_every_n_layers={every}", "trainer.max_steps=1", "trainer.save_steps=0"
    )
    seen: list[int] = []
    real = GradientCheckpointingLayer.__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.training:
            seen.append(int(self.gradient_checkpointing))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(GradientCheckpointingLayer, "__call__", counted)
    train(run)
    assert sum(seen) == layers
    assert len(seen) == 2
