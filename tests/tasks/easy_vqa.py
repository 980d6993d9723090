"""Real images with questions (easy-VQA, MIT: 5,000 drawn shapes of 64 pixels), which come in a wheel: `easy_vqa.rows("train")`."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest

WHEEL = "easy-vqa==1.0"
SHA256 = "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f"


@cache
def folder() -> Path:
    """Where images and questions lie, fetched once in a test session; without a package index the test is skipped."""
    place = Path(mkdtemp(prefix="easy-vqa-"))
    argv = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", f"--dest={place}", WHEEL]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"{WHEEL} cannot be fetched: {done.stderr.strip().splitlines()[-1]}")
    (wheel,) = place.glob("*.whl")
    assert hashlib.sha256(wheel.read_bytes()).hexdigest() == SHA256
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place, [name for name in archive.namelist() if name.startswith("easy_vqa/data/")])
    return place / "easy_vqa" / "data"


def rows(part: str) -> Iterator[tuple[Path, str, str]]:
    """Image, question, answer of `train` or `test`, in the file's order; those that are answered by yes or no are left out."""
    for question, answer, index in json.loads((folder() / part / "questions.json").read_text(encoding="utf-8")):
        if answer not in ("yes", "no"):
            yield folder() / part / "images" / f"{index}.png", question, answer


def shapes(part: str) -> dict[Path, str]:
    """The shape that an image shows, of each image of which that is asked."""
    return {image: answer for image, _, answer in rows(part) if answer in ("circle", "rectangle", "triangle")}
