"""`tune cache ls`: prepared rows, base measurements and made models, which runs share; `tune cache rm NAME …`, `--unused` those of no run.

A deleted one is made again when a run needs it. `output_dir=FOLDER` looks elsewhere than ./outputs. `--yes` does not ask.
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuner.commands.inventory import human_age, human_size, output_folder, size_of, users
from tuner.commands.request import Request, parse
from tuner.errors import TuneError, nearest
from tuner.files import cache_dir
from tuner.plan import SHARED
from tuner.render import out, print_json, table
from tuner.runs import disk_error, in_use, lock, read_json


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A shared result. `state`: whole, partial (it was interrupted), in use; `rows`: prepared, or measured; `runs`: whose plans name it."""

    name: str
    state: str
    rows: int | None
    tokens: int | None
    source: str
    runs: list[str]
    age_s: int
    size_bytes: int
    folder: str


def main(args: list[str]) -> int:
    """List or delete shared results."""
    request = parse(args, flags=("--json", "--yes", "--unused"), words=1000)
    word, *names = request.words or ["ls"]
    if word not in ("ls", "rm"):
        raise TuneError(f"`tune cache` lists (`ls`) and deletes (`rm`), not `{word}`", word, "say `tune cache ls`, `tune cache rm NAME`")
    found = entries(output_folder(request))
    if word == "rm":
        return _remove(_chosen(found, names, request), request)
    if names:
        raise TuneError(f"cannot place `{names[0]}`", names[0], "`tune cache ls` takes no name")
    if request.json:
        print_json([dataclasses.asdict(e) for e in found])
    elif not found:
        out.print(f"nothing is cached in {output_folder(request)}", markup=False)
    else:
        _print(found)
    return 0


def entries(output_dir: Path) -> list[Entry]:
    """What lies in the cache of an output folder, the newest first. Raises TuneError (code 4) when a run's plan cannot be read."""
    runs = users(output_dir)
    folders = [f for stage in SHARED for f in (output_dir / ".cache").glob(f"{stage}-*") if f.is_dir()]
    made = (f for f in (cache_dir() / "models").glob("*") if f.is_dir())
    return sorted([*(_entry(f, runs.get(f.name, [])) for f in folders), *map(_model, made)], key=lambda e: e.age_s)


def _model(folder: Path) -> Entry:
    """A model that was converted, or merged for `model=run:NAME`, for every project of this person."""
    return Entry(
        name=folder.name,
        state="partial" if folder.suffix == ".partial" else "whole",
        rows=None,
        tokens=None,
        source="a model",
        runs=["any project"],
        age_s=max(0, round(time.time() - folder.stat().st_mtime)),
        size_bytes=size_of(folder),
        folder=str(folder),
    )


def _entry(folder: Path, runs: list[str]) -> Entry:
    stage, _, key = folder.name.rpartition("-")
    marker = folder / "stages" / f"{stage}-{key}.json"
    facts: dict[str, Any] = read_json(marker) if marker.is_file() else {}
    data: dict[str, Any] = read_json(folder / "data.json") if (folder / "data.json").is_file() else {}
    source = data.get("source", {})
    return Entry(
        name=folder.name,
        state="in use" if in_use(folder) else "whole" if facts else "partial",
        rows=facts.get("rows"),
        tokens=facts.get("tokens"),
        source=source.get("id") or Path(source.get("path") or "").name or ", ".join(s["name"] for s in data.get("sources", ())),
        runs=runs,
        age_s=max(0, round(time.time() - folder.stat().st_mtime)),
        size_bytes=size_of(folder),
        folder=str(folder),
    )


def _print(found: list[Entry]) -> None:
    rows = []
    for e in found:
        counts = [f"{n:,}" if n is not None else "–" for n in (e.rows, e.tokens)]
        used = "no run" if not e.runs else e.runs[0] + (f" and {len(e.runs) - 1} more" if len(e.runs) > 1 else "")
        rows.append([e.name, e.state, e.source or "–", *counts, used, human_age(e.age_s), human_size(e.size_bytes)])
    table(["name", "state", "rows of", "rows", "tokens", "used by", "age", "size"], rows, right=[3, 4, 6, 7])
    unused = sum(e.size_bytes for e in found if not e.runs)
    total = human_size(sum(e.size_bytes for e in found))
    out.print(f"{total} in all" + (f", {human_size(unused)} of it used by no run (`tune cache rm --unused`)" if unused else ""))


def _chosen(found: list[Entry], names: list[str], request: Request) -> list[Entry]:
    """The entries that are named, each in full or by a beginning that is its own."""
    if "--unused" in request.flags and not names:
        return [e for e in found if not e.runs]
    if not names:
        raise TuneError("which?", "", "say `tune cache rm NAME`, or `--unused`; `tune cache ls` lists them")
    chosen = []
    for name in names:
        exact = [e for e in found if name in (e.name, e.name.rpartition("-")[2])]
        matching = exact or [e for e in found if e.name.startswith(name)]
        if len(matching) != 1:
            guess = nearest(name, [e.name for e in found])
            fix = f"did you mean `{guess}`?" if guess else "`tune cache ls` lists them"
            what = f"`{name}` is the beginning of {len(matching)}" if matching else f"nothing is cached as `{name}`"
            raise TuneError(what, name, "write more of it" if matching else fix)
        chosen += matching
    return [e for e in found if e in chosen]


def _remove(chosen: list[Entry], request: Request) -> int:
    size = human_size(sum(e.size_bytes for e in chosen))
    if not request.json and chosen:
        _print(chosen)
    if chosen and "--yes" not in request.flags:
        if not sys.stdin.isatty():
            raise TuneError(f"not deleting {size} without being asked on a terminal", "", "add --yes to delete")
        if input(f"delete {size}? [y/N] ").strip().lower() not in ("y", "yes"):
            out.print("nothing was deleted")
            return 0
    for entry in chosen:
        folder = Path(entry.folder)
        with lock(folder):  # raises when it is being made
            try:
                shutil.rmtree(folder / "stages", ignore_errors=True)  # first: what an interrupted deletion leaves does not count
                shutil.rmtree(folder)
            except OSError as error:
                raise disk_error(error, folder) from error
    if request.json:
        print_json({"deleted": [e.name for e in chosen]})
    else:
        out.print(f"deleted {len(chosen)}, {size}; a run that needs one makes it again" if chosen else "nothing to delete")
    return 0
