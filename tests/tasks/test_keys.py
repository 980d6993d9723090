"""Keys of tasks whose effect no other test sees: with another value the first steps have another loss."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Lab, losses_of, train
from tests.tasks import labs, painting
from tests.tasks.test_distil import lab_of as taught
from tests.tasks.test_preference import lab_of, liked

CHANGES: dict[str, tuple[Callable[[Path], Lab], tuple[str, ...]]] = {
    "scale": (labs.alike, ("task.scale=20", "task.scale=5")),
    "pooling": (labs.alike, ("task.pooling=mean", "task.pooling=cls", "task.pooling=lasttoken")),
    "group_by_length": (labs.classes, ("task.group_by_length=true", "task.group_by_length=false")),
    "sft_weight": (lab_of, ("task.sft_weight=0", "task.sft_weight=0.5")),
    "temperature": (taught, ("task.temperature=1", "task.temperature=3")),
    "alpha": (taught, ("task.alpha=0", "task.alpha=0.5", "task.alpha=1")),
    "jsd_beta": (taught, ("task.jsd_beta=0", "task.jsd_beta=0.5", "task.jsd_beta=1")),
    "teacher_dtype": (taught, ("task.teacher_dtype=float32", "task.teacher_dtype=bfloat16")),
    "caption_dropout": (painting.shapes, ("task.caption_dropout=0", "task.caption_dropout=0.9")),
    "snr_gamma": (painting.shapes, ("task.caption_dropout=0.1", "task.snr_gamma=5", "task.snr_gamma=0.1")),
    "instance_prompt": (painting.uncaptioned, ("task.instance_prompt=red", "task.instance_prompt=blue")),
    "undesirable_weight": (
        lambda folder: liked(lab_of(folder)),
        ("task=kto task.undesirable_weight=1", "task=kto task.undesirable_weight=3"),
    ),
}


@pytest.mark.parametrize(("make", "values"), CHANGES.values(), ids=CHANGES)
def test_another_value_is_another_loss(make: Callable[[Path], Lab], values: tuple[str, ...], tmp_path: Path) -> None:
    lab, found = make(tmp_path), []
    for value in values:
        run = lab.run(*value.split(), "trainer.max_steps=2", "trainer.save_steps=0", "eval.enabled=false", "hub=none")
        train(run)
        found.append(losses_of(run.folder))
    assert len({tuple(losses) for losses in found}) == len(values), found
