"""Run folders on disk: files are whole or not there, one process at a time, runs are found by what a person types."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tuner.errors import BAD_RECIPE, ENVIRONMENT, TuneError
from tuner.runs import find_run, in_use, is_done, list_runs, lock, mark_done, read_json, write_json, write_text


def make_run(outputs: Path, name: str, key: str, *, finished: bool = True, age_s: int = 0) -> Path:
    folder = outputs / name / key
    write_json(folder / "plan.json", {"name": name})
    if finished:
        mark_done(folder, "train", key, {})
    stamp = 1_700_000_000 - age_s
    os.utime(folder / "plan.json", (stamp, stamp))
    return folder


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    write_json(tmp_path / "deep/er/file.json", {"a": "ü"})
    assert read_json(tmp_path / "deep/er/file.json") == {"a": "ü"}
    assert [p.name for p in (tmp_path / "deep/er").iterdir()] == ["file.json"]


@pytest.mark.parametrize(("number", "word"), [(errno.ENOSPC, "tune gc"), (errno.EROFS, "output_dir"), (errno.EACCES, "output_dir")])
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, word: str) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(TuneError) as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.code == ENVIRONMENT
    assert word in caught.value.problems[0].fix
    assert (tmp_path / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_message() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    code = (
        "from pathlib import Path; from tuner.runs import write_text\n"
        "from tuner.render import print_error; from tuner.errors import TuneError\n"
        "real = Path.with_name; Path.with_name = lambda self, name: Path('/dev/full')\n"
        "Path.unlink = lambda self, missing_ok=False: None\n"
        "try: write_text(Path('x.json'), 'a' * 100)\n"
        "except TuneError as error: print_error(error); raise SystemExit(error.code)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert answer.returncode == ENVIRONMENT
    assert "No space left on device" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"a": ')
    with pytest.raises(TuneError, match=r"cannot read plan.json") as caught:
        read_json(tmp_path / "plan.json")
    assert caught.value.code == ENVIRONMENT


def test_a_stage_is_done_when_its_marker_is_there(tmp_path: Path) -> None:
    assert not is_done(tmp_path, "train", "abc")
    mark_done(tmp_path, "train", "abc", {"seconds": 3})
    assert is_done(tmp_path, "train", "abc")
    assert not is_done(tmp_path, "train", "abd")
    marker = json.loads((tmp_path / "stages/train-abc.json").read_text())
    assert marker["stage"] == "train"
    assert marker["seconds"] == 3
    assert marker["finished"].endswith("Z")


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that holds the folder's lock until its input ends."""
    code = (
        "import sys; from pathlib import Path; from tuner.runs import lock\n"
        f"with lock(Path({str(folder)!r})): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_the_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    with hold(tmp_path) as holder:
        with pytest.raises(TuneError, match=f"process {holder.pid} on ") as caught, lock(tmp_path):
            pass
        assert caught.value.code == ENVIRONMENT
        assert in_use(tmp_path)
        holder.kill()
        holder.wait()
        assert not in_use(tmp_path)  # the system freed it
        with lock(tmp_path):
            pass


def test_looking_whether_a_folder_is_in_use_writes_nothing(tmp_path: Path) -> None:
    assert not in_use(tmp_path)
    assert not in_use(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TuneError) as caught, lock(tmp_path / "file" / "run"):
        pass
    assert caught.value.code == ENVIRONMENT


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)  # root may write everywhere, so a mode of 0o500 would test nothing here
    for act in (lambda: write_text(tmp_path / "x", "a"), lambda: lock(tmp_path).__enter__()):
        with pytest.raises(TuneError, match="Read-only file system") as caught:
            act()
        assert caught.value.code == ENVIRONMENT
        assert "output_dir" in caught.value.problems[0].fix


def test_runs_are_listed_by_age(tmp_path: Path) -> None:
    old, new = make_run(tmp_path, "a", "111111111111", age_s=50), make_run(tmp_path, "b", "222222222222")
    assert list_runs(tmp_path) == [old, new]
    assert list_runs(tmp_path / "nothing") == []


def test_a_run_is_found_by_folder_name_and_key(tmp_path: Path) -> None:
    old = make_run(tmp_path, "tickets", "aaaa11111111", age_s=50)
    new = make_run(tmp_path, "tickets", "aaab22222222", age_s=20)
    partial = make_run(tmp_path, "tickets", "bbbb33333333", finished=False)
    assert find_run(str(old), output_dir=tmp_path) == old
    assert find_run("tickets", output_dir=tmp_path) == new  # the newest finished one
    assert find_run("tickets@aaaa", output_dir=tmp_path) == old
    assert find_run("tickets@bbbb", output_dir=tmp_path) == partial


def test_an_unknown_run_names_the_nearest(tmp_path: Path) -> None:
    make_run(tmp_path, "tickets", "aaaa11111111")
    with pytest.raises(TuneError, match="no run called `tikets`") as caught:
        find_run("tikets", output_dir=tmp_path)
    assert caught.value.code == BAD_RECIPE
    assert "did you mean `tickets`?" in caught.value.problems[0].fix
    with pytest.raises(TuneError) as caught:
        find_run("x", output_dir=tmp_path / "empty")
    assert "none yet" in caught.value.problems[0].fix


def test_a_key_prefix_that_fits_no_run(tmp_path: Path) -> None:
    make_run(tmp_path, "tickets", "aaaa11111111")
    with pytest.raises(TuneError):
        find_run("tickets@ffff", output_dir=tmp_path)
