"""Local inputs: finding a recipe's data files (`tickets/train.jsonl`) and hashing content, cached by size and time of change."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from tuner.errors import TuneError, nearest
from tuner.runs import write_json

ENDINGS = {".json": "json", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
_SHIPPED_DATA = Path(__file__).resolve().parent / "conf" / "data"


def cache_dir() -> Path:
    """The user's cache for models and hashes: $TUNER_CACHE, else $XDG_CACHE_HOME/tuner, else ~/.cache/tuner."""
    if own := os.environ.get("TUNER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tuner"


def find_files(path: str, *, beside: Path) -> list[Path]:
    """Files that a data path stands for: a file, a glob or a folder, looked up from here, `beside` the recipe, then in the shipped sets.

    Raises TuneError (code 2) with the places that were tried and the nearest file name.
    """
    wanted = Path(path).expanduser()
    tried = [wanted] if wanted.is_absolute() else [Path.cwd() / wanted, beside / wanted, _SHIPPED_DATA / wanted]
    for candidate in tried:
        if candidate.is_file():
            return [candidate.resolve()]
        if candidate.is_dir():
            inside = sorted(p.resolve() for p in candidate.iterdir() if p.suffix in ENDINGS)
            if inside:
                return inside
            raise TuneError(f"no data files in the folder {candidate}", "", f"expected one of {', '.join(ENDINGS)}")
        if matches := sorted(glob.glob(str(candidate), recursive=True)):
            return [Path(m).resolve() for m in matches if Path(m).is_file()]
    parent = tried[0].parent
    guess = nearest(wanted.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else None
    places = ", ".join(dict.fromkeys(str(p) for p in tried))
    raise TuneError(f"no such file: {path}", "", (f"did you mean `{wanted.with_name(guess)}`? " if guess else "") + f"tried {places}")


def hashes(paths: list[Path]) -> list[str]:
    """sha256 of each file's content. A file whose size and time of change are known is not read again."""
    store = cache_dir() / "hashes.json"
    try:
        known: dict[str, Any] = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    result, fresh = [], False
    for path in paths:
        stat = path.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(str(path))
        if entry is None or entry["stamp"] != stamp:
            with path.open("rb") as stream:
                entry = {"stamp": stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
            known[str(path)], fresh = entry, True
        result.append(entry["sha256"])
    if fresh:
        with contextlib.suppress(TuneError):  # a cache that cannot be written only costs time
            write_json(store, known)
    return result


def model_files(folder: Path) -> list[Path]:
    """The files that make a local model what it is: configuration, weights, tokenizer, template."""
    endings = {".json", ".safetensors", ".model", ".jinja", ".bin", ".txt"}
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in endings)
