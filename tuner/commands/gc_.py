"""`tune gc`: what no run needs: checkpoints of finished runs, prepared data and base measurements that no plan refers to, temporary files.

Prints what and how much; `--yes` deletes it. A run in use is never touched. `output_dir=FOLDER` looks elsewhere than ./outputs.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tuner.commands.inventory import human_size, is_finished, output_folder, size_of, users
from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.plan import SHARED, read_plan
from tuner.render import out, print_json, shorten, table
from tuner.runs import disk_error, in_use, lock

# A temporary file lives for seconds; one that is an hour old was left by a process that died.
LEFT_BEHIND_S = 3600


@dataclass(frozen=True, kw_only=True)
class Waste:
    """Something that no run needs. `locked`: the folder whose lock is held while it is deleted."""

    path: Path
    why: str
    locked: Path | None = None


def main(args: list[str]) -> int:
    """Find, and with --yes delete, what no run needs."""
    request = parse(args, flags=("--json", "--yes"))
    folder = output_folder(request)
    found = [(w, size_of(w.path)) for w in find_waste(folder)]
    total = sum(size for _, size in found)
    delete = "--yes" in request.flags
    if delete:
        for waste, _ in found:
            _delete(waste)
    if request.json:
        items = [{"path": str(w.path), "why": w.why, "size_bytes": size} for w, size in found]
        print_json({"items": items, "size_bytes": total, "deleted": delete})
        return 0
    if not found:
        out.print(f"nothing to free in {folder}", markup=False)
        return 0
    table(["what", "why", "size"], [[shorten(w.path.absolute()), w.why, human_size(size)] for w, size in found], right=[2])
    out.print(f"{'freed' if delete else 'can be freed'}: {human_size(total)}" + ("" if delete else " (`tune gc --yes` deletes it)"))
    return 0


def find_waste(output_dir: Path) -> list[Waste]:
    """Everything under an output folder that no run needs. Raises TuneError (code 4) when a plan cannot be read: it might need a cache."""
    runs = sorted({p.parent for p in output_dir.glob("*/*/plan.json")} | {p.parent for p in output_dir.glob("*/*/plans")})
    idle = [r for r in runs if not in_use(r)]
    found = [*_checkpoints(idle), *_orphans(output_dir), *_remains(output_dir)]
    whole = {w.path for w in found}
    return found + [w for w in _temporary(output_dir, idle) if not whole.intersection(w.path.parents)]


def _checkpoints(idle: list[Path]) -> Iterator[Waste]:
    for run in idle:
        checkpoints = run / "checkpoints"
        if checkpoints.is_dir() and (run / "plan.json").is_file() and is_finished(run, read_plan(run / "plan.json")):
            yield Waste(path=checkpoints, why="checkpoints of a finished run", locked=run)


def _orphans(output_dir: Path) -> Iterator[Waste]:
    """Shared results that no plan refers to, neither a run's last plan nor one that waits in its `plans/`."""
    needed = users(output_dir)
    for stage in SHARED:
        for folder in sorted((output_dir / ".cache").glob(f"{stage}-*")):
            if folder.name not in needed and not in_use(folder):
                yield Waste(path=folder, why="no run refers to it", locked=folder)


def _remains(output_dir: Path) -> Iterator[Waste]:
    """Run folders without any plan: `tune rm` was interrupted."""
    for folder in sorted(output_dir.glob("*/" + "[0-9a-f]" * 12)):
        if not (folder / "plan.json").exists() and not (folder / "plans").exists() and not in_use(folder):
            yield Waste(path=folder, why="remains of a deleted run", locked=folder)


def _temporary(output_dir: Path, idle: list[Path]) -> Iterator[Waste]:
    oldest = time.time() - LEFT_BEHIND_S
    for run in (*idle, output_dir / ".cache"):
        for path in sorted(run.rglob(".*.tmp")):
            if path.is_file() and path.stat().st_mtime < oldest:
                yield Waste(path=path, why="left by an interrupted write", locked=run if run in idle else None)


def _delete(waste: Waste) -> None:
    """Delete under the folder's lock; a run that was started meanwhile keeps everything."""
    with contextlib.ExitStack() as held:
        if waste.locked is not None:
            try:
                held.enter_context(lock(waste.locked))
            except TuneError:
                return
        try:
            if waste.path.is_dir():
                shutil.rmtree(waste.path)
            else:
                waste.path.unlink(missing_ok=True)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_error(error, waste.path) from error
