"""Reads a person's own file: `load_file(Path("extensions.py"))`. Its code runs, so it is named on the command line, never by a recipe.

It is read once: what is hashed is what runs. The sha256 stands in the plan, and a worker takes no other content.
"""

from __future__ import annotations

import dataclasses
import hashlib
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from tuner.errors import TuneError
from tuner.registry import Origin, comes_from, forget, kinds, load_extensions, origin
from tuner.schema.base import Section
from tuner.schema.recipe import Recipe
from tuner.schema.rewarded import Rewarded
from tuner.schema.transforms.reading import name_of


def load_files(paths: list[str], *, trust: bool) -> list[Origin]:
    """The files of `--extensions`, read. Raises TuneError (code 2) without `trust`, and for what cannot be read or is wrong in it."""
    load_extensions()  # before them, so that a name that is taken is told
    found = [_read(Path(path)) for path in paths]
    if found and not trust:
        told = ", ".join(f"{path} (sha256 {hashlib.sha256(content).hexdigest()})" for path, content in found)
        fix = "its code runs with your rights, here and in every worker: files, network, tokens. Read it, then say `--trust` as well"
        raise TuneError(f"an extension is code, and this one is not trusted yet: {told}", "--extensions", fix)
    return [_load(path, content) for path, content in found]


def load_planned(extensions: dict[str, str]) -> None:
    """The files of a plan, path -> sha256, in a worker. Raises TuneError (code 2) when one has changed since."""
    for name, sha256 in extensions.items():
        path, content = _read(Path(name))
        if (now := hashlib.sha256(content).hexdigest()) != sha256:
            what = f"{path.name} has changed since this run was planned: sha256 {now[:12]}…, and {sha256[:12]}… then"
            raise TuneError(what, str(path), "start the command again: it plans with the file as it is now")
        _load(path, content)


def used(recipe: Recipe) -> dict[str, Origin]:
    """What a recipe uses that we do not ship: {"transforms.shout": its origin, "adapter": …}."""
    steps = [*recipe.data.transforms, *(step for source in recipe.data.mix.values() for step in source.transforms)]
    found = {f"transforms.{name}": kinds("transform").get(name) for name in map(name_of, steps)}
    if isinstance(recipe.task, Rewarded):
        found |= {f"rewards.{name}": kinds("reward").get(name) for name in recipe.task.rewards}
    found |= {f"metrics.{name}": kinds("metric").get(name) for name in recipe.eval.metrics}
    sections = {spec.name: getattr(recipe, spec.name) for spec in dataclasses.fields(recipe)}
    found |= {name: type(value) for name, value in sections.items() if isinstance(value, Section)}
    return {name: source for name, cls in found.items() if cls is not None and (source := origin(cls))}


def files_used(recipe: Recipe) -> dict[str, str]:
    """Path -> sha256 of each file that the recipe uses something of."""
    return {source.path: source.identity for source in used(recipe).values() if source.path}


def _read(path: Path) -> tuple[Path, bytes]:
    path = path.expanduser().absolute()
    try:
        return path, path.read_bytes()
    except OSError as error:
        raise TuneError(f"cannot read the extension: {error.strerror}", str(path), "check the path; it is looked up from here") from error


def _load(path: Path, content: bytes) -> Origin:
    name = f"tuner_own_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    source = Origin(name=path.name, identity=hashlib.sha256(content).hexdigest(), path=str(path))
    if any(
        cls.__module__ == name and origin(cls) == source for group in ("transform", "reward", "metric") for cls in kinds(group).values()
    ):  # read already, in this process
        return source
    forget(name)
    module = ModuleType(name, f"{path}")
    module.__file__ = str(path)
    sys.modules[name] = module
    comes_from(name, source)
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except TuneError:
        raise
    except (SyntaxError, ValueError) as error:  # ValueError: a null byte
        line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else next(_lines(error, path), 1)
        said = error.msg if isinstance(error, SyntaxError) else str(error)
        raise TuneError(f"the extension cannot be read: {said}", f"{path}:{line}", "mend the file") from error
    except (Exception, SystemExit) as error:
        what = f"the extension cannot be loaded: {type(error).__name__}: {error}"
        fix = "mend the file; it is one file, and what it imports must be installed"
        raise TuneError(what, f"{path}:{next(_lines(error, path), 1)}", fix) from error
    return source


def _lines(error: BaseException, path: Path) -> Iterator[int]:
    """Lines of the file in an error's traceback, the innermost first."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == str(path):
            yield frame.lineno or 1
