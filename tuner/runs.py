"""Run folders: `outputs/<name>/<train key>/`. Finding them by name, marking stages as done, writing files whole, one run at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tuner.errors import ENVIRONMENT, TuneError, nearest


def write_text(path: Path, text: str) -> None:
    """Write to a temporary name, then rename: a reader sees the old file or the new one. Raises TuneError (code 4) when it cannot."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise disk_error(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file that we wrote. Raises TuneError (code 4) when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TuneError(f"cannot read {path.name}: {error}", str(path), "delete the file and run again", code=ENVIRONMENT) from error


def disk_error(error: OSError, path: Path) -> TuneError:
    """One message for a full disk, a read-only folder and their like."""
    fixes = {
        28: "free some space (`tune gc` removes what no run needs), or set output_dir",
        30: "set output_dir to a folder you can write",
        13: "set output_dir to a folder you can write",
    }
    return TuneError(f"cannot write: {error.strerror or error}", str(path), fixes.get(error.errno or 0, "check the path"), code=ENVIRONMENT)


def is_done(folder: Path, stage: str, key: str) -> bool:
    """Whether the marker of a finished stage is there, and every file that it names."""
    marker = folder / "stages" / f"{stage}-{key}.json"
    try:
        files = json.loads(marker.read_text(encoding="utf-8")).get("files", {})
        return all((folder / name).stat().st_size == size for name, size in files.items())
    except (OSError, ValueError):
        return False


def mark_done(folder: Path, stage: str, key: str, result: dict[str, Any], *, files: Iterable[Path] = ()) -> None:
    """Write the marker of a finished stage, the last thing a stage does. Without one of `files` the stage will not count as done."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    made = {str(path.relative_to(folder)): path.stat().st_size for path in files}
    write_json(folder / "stages" / f"{stage}-{key}.json", {"stage": stage, "key": key, "finished": stamp, **result, "files": made})


@contextlib.contextmanager
def lock(folder: Path, *, wait: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold the folder for this process; freed when the process dies.

    Raises TuneError (code 4) naming who holds it; with `wait`, tells that to it and waits.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(error, folder) from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.seek(0)
            holder = stream.read().strip() or "another process"
            if wait is None:
                fix = "wait for it, or give this run another name: name=…"
                raise TuneError(f"the run folder is in use by {holder}", str(folder), fix, code=ENVIRONMENT) from error
            wait(holder)
            fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            stream.truncate(0)
            os.write(stream.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        except OSError as error:
            raise disk_error(error, folder) from error
        yield


def in_use(folder: Path) -> bool:
    """Whether a live process holds the folder's lock. Nothing is written."""
    try:
        with (folder / ".lock").open(encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def list_runs(output_dir: Path) -> list[Path]:
    """Every run folder (one with a plan), the newest last."""
    plans = output_dir.glob("*/*/plan.json")
    return [p.parent for p in sorted(plans, key=lambda p: p.stat().st_mtime)]


def find_run(name: str, *, output_dir: Path = Path("outputs")) -> Path:
    """RUN as typed: a folder, a name (its newest finished run) or `name@key-prefix`. Raises TuneError (code 2) with the nearest name."""
    path = Path(name).expanduser()
    if (path / "plan.json").is_file():
        return path.resolve()
    runs = list_runs(output_dir)
    wanted, _, prefix = name.partition("@")
    found = [r for r in runs if r.parent.name == wanted and r.name.startswith(prefix)]
    finished = [r for r in found if any((r / "stages").glob("train-*.json"))]
    if found:
        return (finished or found)[-1].resolve()
    names = sorted({r.parent.name for r in runs})
    guess = nearest(wanted, names)
    hint = f"did you mean `{guess}`?" if guess else f"runs in {output_dir}: {', '.join(names) or 'none yet'}"
    raise TuneError(f"no run called `{name}`", "RUN", f"{hint} (RUN is a folder, a name, or name@key-prefix; `tune ls runs`)")
