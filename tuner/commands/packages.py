"""Doctor's findings about Python and packages: `versions()` compares what is installed with what the distribution `tuner` requires."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, entry_points, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tuner.schema.documents import PACKAGE

QUICKSTART = "quickstart"  # the extra without whose packages the first command of the README cannot run


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at. `status`: ok, warn (something will not work or be slow), fail (nothing will work)."""

    check: str
    status: str
    what: str
    fix: str = ""


def supported() -> tuple[str, list[tuple[Requirement, str]]]:
    """(range of Python versions, every requirement with the extra it belongs to): of the installed distribution, else of pyproject.toml."""
    try:
        found = distribution("tuner")
    except PackageNotFoundError:
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        return project["requires-python"], [(Requirement(text), extra) for extra, texts in groups.items() for text in texts]
    extras = ["", *(found.metadata.get_all("Provides-Extra") or [])]
    needed = []
    for requirement in map(Requirement, found.requires or []):
        marker = requirement.marker
        needed.append((requirement, next((e for e in extras if marker is None or marker.evaluate({"extra": e})), "other")))
    return found.metadata["Requires-Python"], needed


def python() -> Iterator[Finding]:
    """The running Python against the supported range."""
    wanted, _ = supported()
    running = ".".join(map(str, sys.version_info[:3]))
    if running in SpecifierSet(wanted):
        yield Finding(check="python", status="ok", what=f"{running} (supported: {wanted})")
    else:
        yield Finding(
            check="python", status="fail", what=f"{running} is outside of {wanted}", fix=f"make the environment with Python {wanted}"
        )


def versions() -> Iterator[Finding]:
    """Each package that is required; optional ones when installed, or when the quickstart needs them."""
    _, needed = supported()
    first = {e for r, extra in needed if r.name == "tuner" and extra == QUICKSTART for e in r.extras} | {QUICKSTART}
    absent: list[str] = []
    seen = {"tuner"}  # its own extras
    for requirement, extra in needed:
        if requirement.name in seen:
            continue
        seen.add(requirement.name)
        pinned = f'pip install "{requirement.name}{requirement.specifier}"'
        install = f'pip install "tuner[{extra}]"' if extra else pinned
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            if not extra:
                yield Finding(check="package", status="fail", what=f"{requirement.name} is not installed", fix=install)
            elif extra in first:
                yield Finding(
                    check="package", status="warn", what=f"{requirement.name} is not installed: the quickstart needs it", fix=install
                )
            else:
                absent.append(f"{requirement.name} ({extra})")
            continue
        if requirement.specifier.contains(installed, prereleases=True):
            yield Finding(check="package", status="ok", what=f"{requirement.name} {installed} ({requirement.specifier or 'any'})")
        else:
            status = "warn" if extra else "fail"
            what = f"{requirement.name} {installed} is outside of {requirement.specifier}"
            yield Finding(check="package", status=status, what=what, fix=pinned)
    if absent:
        yield Finding(check="package", status="ok", what=f"optional, not installed: {', '.join(absent)}")


def extensions() -> Iterator[Finding]:
    """Packages that add kinds, and whether they can be imported."""
    points = list(entry_points(group="tuner.extensions"))
    for point in points:
        try:
            point.load()
        except Exception as error:  # whatever a stranger's module raises, the other findings still matter
            what = f"{point.name} ({point.value}) cannot be imported: {type(error).__name__}: {error}"
            yield Finding(
                check="extension", status="fail", what=what, fix=f"mend or uninstall {point.dist.name if point.dist else point.value}"
            )
        else:
            yield Finding(check="extension", status="ok", what=f"{point.name} ({point.value})")
    if not points:
        yield Finding(check="extension", status="ok", what="none installed")
