"""Another number of processes with the same global batch: the same rows in each step, and after a resume none repeated, none missed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import ROOT, environ
from tests.train.ranks import GLOBAL, ROWS

STEPS, STOP = 8, 3  # five steps an epoch: the stop is in the middle of the first, the end in the second


def trained(folder: Path, world: int, steps: int) -> None:
    """Ranks over gloo, to a step."""
    folder.mkdir(exist_ok=True)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)] if world > 1 else []
    argv = [sys.executable, *launch, str(ROOT / "tests/train/ranks.py"), str(folder), str(steps)]
    done = subprocess.run(argv, env=environ(), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"world {world}" in done.stdout


def ids(folder: Path) -> list[list[int]]:
    """Sorted ids of the rows of each step, of all ranks."""
    found: dict[int, list[int]] = {}
    for path in folder.glob("ids-*.jsonl"):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["step"], []).extend(entry["ids"])
    return [sorted(found[step]) for step in sorted(found)]


@pytest.mark.slow
def test_another_world_size_sees_the_same_rows_and_goes_on_with_the_missing_ones(tmp_path: Path) -> None:
    trained(tmp_path / "one", 1, STEPS)
    expected = ids(tmp_path / "one")
    assert [len(step) for step in expected] == [GLOBAL] * STEPS
    assert sorted(row for step in expected[: ROWS // GLOBAL] for row in step) == [i + 2 for i in range(ROWS)]
    for name, first, then in (("up", 1, 2), ("down", 2, 1)):
        trained(tmp_path / name, first, STOP)
        assert ids(tmp_path / name) == expected[:STOP], "the same rows in each step"
        trained(tmp_path / name, then, STEPS)
        assert ids(tmp_path / name) == expected, "none repeated, none missed"
