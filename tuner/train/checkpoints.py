"""Checkpoints that are whole or do not count: `seal(folder)` after all is written, `newest(folder)` gives the last one that still matches.

Transformers writes a checkpoint file by file under its final name, so a kill leaves half of one. A seal lists every file's sha256 and
is written last, by rename: a folder without a seal, or whose files differ from it, is passed over for the one before.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from tuner.errors import TuneError
from tuner.runs import read_json, write_json

SEAL = "seal.json"
PREFIX = "checkpoint-"


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> None:
    """Declare a checkpoint complete."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != SEAL)
    write_json(folder / SEAL, {str(p.relative_to(folder)): _digest(p) for p in files})


def sealed(folder: Path) -> bool:
    """Whether a checkpoint was completed; `broken` also reads it."""
    return (folder / SEAL).is_file()


def broken(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None."""
    if not sealed(folder):
        return "it was not completed"
    try:
        sums = read_json(folder / SEAL)
    except TuneError:
        return "its seal is damaged"
    for name, digest in sums.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _digest(path) != digest:
            return f"{name} is damaged"
    return None


def step_of(folder: Path) -> int:
    """The optimizer step a checkpoint was written at."""
    return int(folder.name.removeprefix(PREFIX))


def all_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first, sealed or not."""
    return sorted((p for p in folder.glob(f"{PREFIX}*") if p.name.removeprefix(PREFIX).isdigit()), key=step_of)


def newest(folder: Path, *, tell: Callable[[str], None]) -> Path | None:
    """The last whole checkpoint; each one passed over is told, and removed so that nothing can pick it up."""
    for checkpoint in reversed(all_checkpoints(folder)):
        reason = broken(checkpoint)
        if reason is None:
            return checkpoint
        tell(f"checkpoint of step {step_of(checkpoint)} is not used: {reason}")
        shutil.rmtree(checkpoint)
    return None


def rotate(folder: Path, *, keep: int, best: Path | None) -> None:
    """Delete the oldest sealed checkpoints beyond `keep`; the best one stays besides."""
    for checkpoint in all_checkpoints(folder)[:-keep]:
        if best is None or checkpoint.resolve() != best.resolve():
            shutil.rmtree(checkpoint)
