"""Hub datasets by the real client from a Hub on this machine: configurations, splits, revisions, private sets, what is absent."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tests.hub.server import HubServer
from tests.lab import RECIPE, tiny_model

TOKEN = "hf_" + "aB3" * 11 + "q"
ASK = """
import json, sys
from tuner.worker_env import quiet
quiet()
from tuner.data.hub import hub_rows
from tuner.errors import TuneError
from tuner.schema.data import Data
def ask(split="train", key="data.split", **data):
    try:
        rows = hub_rows(Data(**data), split, key=key)
        return [len(rows), rows[0]["prompt"], rows.place(0)]
    except TuneError as error:
        (problem,) = error.problems
        return {"code": error.code, "what": problem.what, "where": problem.where, "fix": problem.fix}
print(json.dumps([ask(**case) for case in json.loads(sys.argv[1])]))
"""
CONFIGS = b"""---
configs:
- config_name: easy
  data_files:
  - {split: train, path: easy/train.parquet}
  - {split: test, path: easy/test.parquet}
- config_name: hard
  data_files:
  - {split: train, path: hard/*.parquet}
---
# A set
"""
# What is asked, and what comes: rows, the first prompt and its place; or a code, and words of the message.
CASES: list[tuple[dict[str, Any], Any]] = [
    ({"id": "me/plain"}, [20, "q0", "me/plain, row 1"]),
    ({"id": "me/plain", "split": "train[:7]"}, [7, "q0", "me/plain train[:7], row 1"]),
    ({"id": "me/plain", "split": "train[10%:20%]"}, [2, "q2", "me/plain train[10%:20%], row 1"]),
    ({"id": "me/plain", "split": "train+test"}, [23, "q0", "me/plain train+test, row 1"]),
    ({"id": "me/plain", "revision": "old"}, [4, "q900", "me/plain, row 1"]),
    ({"id": "me/set", "config": "easy", "split": "test"}, [10, "q100", "me/set test, row 1"]),
    ({"id": "me/set", "config": "hard"}, [10, "q500", "me/set, row 1"]),
    ({"id": "me/set"}, (2, "several configurations", "data.config", "one of: easy, hard")),
    ({"id": "me/set", "config": "medium"}, (2, "no configuration `medium`", "data.config", "it has: easy, hard")),
    ({"id": "me/plain", "split": "validation"}, (2, "no split for `validation`", "data.split", "its splits: train, test")),
    ({"id": "me/plain", "split": "dev", "key": "data.eval_split"}, (2, "for `dev`", "data.eval_split", "train, test")),
    ({"id": "me/plain", "split": "train[:x]"}, (2, "not a split expression", "data.split", "`train[:1000]`")),
    ({"id": "me/plain", "revision": "nope"}, (4, "Revision 'nope' doesn't exist", "data.id", "revision")),
    ({"id": "me/none"}, (4, "doesn't exist on the Hub", "data.id", "check the id")),
    ({"id": "me/private"}, (4, "cannot be accessed", "data.id", "HF_TOKEN")),
    ({"id": "me/empty"}, (4, "doesn't contain any data files", "data.id", "")),
    ({"id": "me/script"}, (4, "scripts are no longer supported", "data.id", "")),
    ({"id": "me/broken"}, (4, "not a parquet file", "data.id", "")),
]


def table(count: int, start: int = 0) -> bytes:
    stream = io.BytesIO()
    rows = [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(start, start + count)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    """A Hub with sets on it."""
    with HubServer() as server:
        server.add_user("me", token=TOKEN)
        plain = {"train.parquet": table(20), "test.parquet": table(3)}
        server.add_repo("me/plain", plain, kind="datasets").commit("old", {"train.parquet": table(4, 900)}, "before")
        files = {"easy/train.parquet": table(100), "easy/test.parquet": table(10, 100), "hard/a.parquet": table(5, 500)}
        server.add_repo("me/set", files | {"hard/b.parquet": table(5, 600), "README.md": CONFIGS}, kind="datasets")
        server.add_repo("me/private", {"train.parquet": table(7)}, kind="datasets", private=True)
        server.add_repo("me/empty", {"README.md": b"# Nothing"}, kind="datasets")
        server.add_repo("me/script", {"script.py": b"x = 1"}, kind="datasets")
        server.add_repo("me/broken", {"train.parquet": table(20)[:200]}, kind="datasets")
        yield server


def started(hub: HubServer, folder: Path, argv: list[str], *, token: str | None = None) -> subprocess.CompletedProcess[str]:
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(folder / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    own |= {"TRANSFORMERS_OFFLINE": "0", "PYTHONPATH": os.pathsep.join(sys.path)} | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(
        [sys.executable, *argv], capture_output=True, text=True, env=os.environ | own, cwd=folder, timeout=90, check=False
    )


@pytest.fixture(scope="module")
def answers(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """What comes for each of CASES, asked in one process."""
    done = started(hub, tmp_path_factory.mktemp("asked"), ["-c", ASK, json.dumps([asked for asked, _ in CASES])])
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("index", range(len(CASES)), ids=[" ".join(asked.values()) for asked, _ in CASES])
def test_what_is_asked_for_comes_or_is_told(answers: list[Any], index: int) -> None:
    found, expected = answers[index], CASES[index][1]
    if isinstance(expected, list):
        assert found == expected
        return
    code, what, where, fix = expected
    assert (found["code"], found["where"]) == (code, where)
    assert what in found["what"]
    assert fix in found["fix"]
    assert "\n" not in found["what"]
    assert "load_dataset" not in found["what"] + found["fix"], "what to do is told in our own words"


@cache
def recipe() -> str:
    return RECIPE.replace("MODEL", str(tiny_model()))


def preview(hub: HubServer, folder: Path, data: str, *, token: str | None = None) -> subprocess.CompletedProcess[str]:
    lines = [f"data: {data}" if line.startswith("data:") else line for line in recipe().splitlines()]
    (folder / "mine.yaml").write_text("\n".join(lines), encoding="utf-8")
    return started(hub, folder, ["-m", "tuner", "preview", "recipe=mine.yaml"], token=token)


def test_a_private_set_is_previewed_by_who_may_see_it(hub: HubServer, tmp_path: Path) -> None:
    done = preview(hub, tmp_path, "{id: me/private, split: 'train[:5]', eval_split: 'train[5:]'}", token=TOKEN)
    assert (done.returncode, done.stderr) == (0, "")
    assert "5 to train, 2 held out" in done.stdout
    assert "me/private train[:5], row 1" in done.stdout


def test_a_set_that_is_not_there_is_one_message_within_seconds(hub: HubServer, tmp_path: Path) -> None:
    began = time.monotonic()
    done = preview(hub, tmp_path, "{id: me/none}")
    assert done.returncode == 4
    assert time.monotonic() - began < 30, "the client's retries would take longer"
    assert done.stderr.startswith("error: cannot load the dataset me/none: Dataset 'me/none' doesn't exist on the Hub")
    assert len(done.stderr.splitlines()) == 3


def test_a_set_of_several_files_is_streamed(hub: HubServer, tmp_path: Path) -> None:
    data = "{id: me/set, config: hard, streaming: true, eval_rows: 2, shuffle_rows: 3}"
    lines = [f"data: {data}" if line.startswith("data:") else line for line in recipe().splitlines()]
    (tmp_path / "mine.yaml").write_text("\n".join(lines), encoding="utf-8")
    done = started(hub, tmp_path, ["-m", "tuner", "recipe=mine.yaml", "trainer.max_steps=3", "hub=none", "eval.generate=false"])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "a stream: its first 8 rows are audited" in done.stdout
    (journal,) = tmp_path.glob("outputs/mine/*/stream.jsonl")
    parts = [json.loads(line) for line in journal.read_text().splitlines()]
    whole = [entry["part"][2] for entry in parts if entry.get("whole") and not entry["part"][1]]
    assert whole == [0, 1], "two files, each a part"
    assert sum(entry["samples"] for entry in parts if not entry.get("whole") and not entry["part"][1]) == 8
