"""`tune rm RUN`: delete a run (a folder, a name, or name@key-prefix). Asks on a terminal; `--yes` answers beforehand.

A run in use is refused. Prepared data and base measurements are shared between runs and stay: `tune gc` removes what no run needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import sys
from pathlib import Path

from tuner.commands.inventory import RunInfo, human_size, inspect_run, output_folder
from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.render import out, print_json, shorten
from tuner.runs import disk_error, find_run, lock


def main(args: list[str]) -> int:
    """Delete a run."""
    request = parse(args, flags=("--json", "--yes"), words=1)
    if not request.words:
        raise TuneError("which run?", "", "say `tune rm RUN`; `tune ls runs` lists them")
    folder = find_run(request.words[0], output_dir=output_folder(request))
    info = inspect_run(folder)
    if not request.json:
        out.print(f"{info.run}: {info.state}, {human_size(info.size_bytes)} in {shorten(folder)}", markup=False)
    with lock(folder):  # raises when the run is in use
        if "--yes" not in request.flags and not _confirmed(info):
            out.print("nothing was deleted")
            return 0
        _delete(folder)
    with contextlib.suppress(OSError):  # other runs of the same name
        folder.parent.rmdir()
    if request.json:
        print_json({"deleted": dataclasses.asdict(info)})
    else:
        out.print(f"deleted {info.run}; `tune gc` frees what only it used", markup=False)
    return 0


def _confirmed(info: RunInfo) -> bool:
    if not sys.stdin.isatty():
        raise TuneError(f"not deleting {info.run} without being asked on a terminal", "", "add --yes to delete it")
    return input("delete it? [y/N] ").strip().lower() in ("y", "yes")


def _delete(folder: Path) -> None:
    """The plans go first: what an interrupted deletion leaves is no run any more, and `tune gc` finds it."""
    try:
        (folder / "plan.json").unlink()
        shutil.rmtree(folder / "plans", ignore_errors=True)
        shutil.rmtree(folder)
    except OSError as error:
        raise disk_error(error, folder) from error
