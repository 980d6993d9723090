"""Task files of lm-evaluation-harness on this machine: `read_task(Path("sums.yaml"))` -> its settings, the rows' files absolute.

Such a file may name Python code (`!function`, a class), which is not run: a recipe is data, and so is what it names.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tuner.errors import TuneError

CODE = ("class", "include", "process_docs", "process_results", "unsafe_code")  # keys that bring code, or another file that may
FIX = 'keep to templates (`doc_to_text: "{{question}}"`), or install a package that has the task and name it'


def is_file(name: str) -> bool:
    """Whether a task is named by its file."""
    return name.endswith((".yaml", ".yml"))


def read_task(path: Path) -> dict[str, Any]:
    """The settings. Raises TuneError (code 2) for what is no task, or would run code."""
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"cannot read the task file: {error}", str(path), "check the path and its permissions") from error
    except yaml.YAMLError as error:
        own = "!function" in str(error)
        what = "the task file runs code of its own (`!function`)" if own else f"the task file is no YAML: {str(error).splitlines()[0]}"
        raise TuneError(what, str(path), FIX if own else "mend it") from error
    if not isinstance(found, dict) or not isinstance(found.get("task"), str):
        raise TuneError("the task file names no task", str(path), "say `task: my_task`; groups are named one by one")
    if (code := next((key for key in CODE if key in found), None)) is not None:
        raise TuneError(f"the task file has `{code}`, which brings code", str(path), FIX)
    options = found.get("dataset_kwargs") or {}
    if "data_files" in options:
        found["dataset_kwargs"] = options | {"data_files": _absolute(options["data_files"], path)}
    return found


def rows_of(task: dict[str, Any]) -> list[str]:
    """The files of its rows on this machine."""
    return list(_leaves((task.get("dataset_kwargs") or {}).get("data_files", [])))


def _absolute(files: Any, path: Path) -> Any:
    """The files, looked up from the task's folder. Raises TuneError (code 2) for one that is not there."""
    if isinstance(files, dict):
        return {split: _absolute(value, path) for split, value in files.items()}
    if isinstance(files, list):
        return [_absolute(value, path) for value in files]
    found = (path.parent / str(files)).absolute()
    if not found.is_file():
        raise TuneError(f"the rows of the task are not there: {files}", str(path), f"looked for {found}")
    return str(found)


def _leaves(files: Any) -> Iterator[str]:
    if isinstance(files, str):
        yield files
    else:
        for value in files.values() if isinstance(files, dict) else files:
            yield from _leaves(value)
