"""Every test runs offline and away from the person's own files; `project` is an empty folder with a few rows to learn from."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tuner import registry

# Before any library reads them. The model cache stays the person's own, so that a converted model is there for all tests that want one.
os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "WANDB_MODE": "offline"}
os.environ.pop("HF_TOKEN", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads that wait for each other cost six times what they save

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


def write_rows(path: Path, count: int, *, start: int = 0) -> Path:
    """Prompt/completion rows, each different from every other."""
    lines = [json.dumps({"prompt": f"question {start + i}", "completion": f"answer {start + i}"}) for i in range(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def own_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers is gone after it."""
    monkeypatch.setattr(registry, "_KINDS", {group: dict(found) for group, found in registry._KINDS.items()})
    monkeypatch.setattr(registry, "_ORIGINS", dict(registry._ORIGINS))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as current one, with `train.jsonl` (20 rows), `eval.jsonl` (5) and a recipe `mine.yaml` over them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / ".tuner-cache"))
    write_rows(tmp_path / "train.jsonl", 20)
    write_rows(tmp_path / "eval.jsonl", 5, start=100)
    (tmp_path / "mine.yaml").write_text(
        "# mine — a test\n"
        "defaults:\n"
        "  - model: smollm2-135m\n"
        "data: {path: train.jsonl, eval_path: eval.jsonl}\n"
        "trainer:\n"
        "  learning_rate: 1e-3\n"
        "  batch_size: 8\n",
        encoding="utf-8",
    )
    return tmp_path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data sets beside the checkout; tests that want them are skipped where they are not."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs ../shared/data, which is not beside this checkout")
    return SHARED / "data"
