"""The shape of the house: who may import whom, nothing heavy in what is light, files and functions that fit a screen."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "tuner"
# From left to right, as in DESIGN.md: a module imports only from what stands further left (and from its own package).
LIGHT = (
    "errors",
    "registry measures",
    "runs",
    "state files task_files schema",
    "extend extensions proportions",
    "keys inputs",
    "plan",
    "dimensions capacity",
    "unread_rules data_rules trainer_rules hardware_rules",
    "task_rules painting_rules memory",
    "placement reward_rules segment_rules vision_rules gate",
    "eval_rules",
    "checks estimate",
    "render",
    "recipe_file progress imports",
    "launch",
    "commands",
    "cli __main__",
)
HEAVY = (
    "results environment worker_env context said",
    "data",
    "model",
    "train eval export hub",
    "tasks summary beside",
    "pipeline serve",
    "preview",
    "checkup",
    "worker",
    "rank",
)
ENTRY = {"launch", "commands", "cli", "__main__"}  # what starts a worker, and is never imported by it
TORCH_AND_ITS_LIKE = {
    "torch",
    "transformers",
    "datasets",
    "trl",
    "peft",
    "accelerate",
    "bitsandbytes",
    "numpy",
    "safetensors",
    "tokenizers",
}
RANKS = {name: rank for rank, names in enumerate(LIGHT + HEAVY) for name in names.split()}
IS_LIGHT = {name for names in LIGHT for name in names.split()}

FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=[str(p.relative_to(PACKAGE)) for p in FILES])


def module_of(path: Path) -> str:
    """The part of `tuner` that a file belongs to: its folder, or its own name at the top."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return parts[0]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            found = [f"{node.module}.{a.name}" for a in node.names] if node.module == "tuner" else [str(node.module)]
            yield from ((name, node.lineno) for name in found)


@each_file
def test_imports_come_from_the_left(path: Path) -> None:
    own = module_of(path)
    if own == "__init__":
        return
    assert own in RANKS, f"{own} has no place in the table"
    wrong = []
    for name, line in imports(path):
        parts = name.split(".")
        if parts[0] != "tuner" or len(parts) == 1 or parts[1] not in RANKS:
            continue
        other = parts[1]
        allowed = other == own or RANKS[other] < RANKS[own] or (own == "__main__" and other == "cli")
        if not allowed or (own not in IS_LIGHT and other in ENTRY) or (own in IS_LIGHT and other not in IS_LIGHT):
            wrong.append(f"{path.relative_to(ROOT)}:{line} imports {name}")
    assert wrong == []


@each_file
def test_what_is_light_imports_nothing_heavy(path: Path) -> None:
    if module_of(path) in IS_LIGHT:
        assert [(name, line) for name, line in imports(path) if name.split(".")[0] in TORCH_AND_ITS_LIKE] == []


@each_file
def test_only_tasks_import_trainers(path: Path) -> None:
    if module_of(path) != "tasks":
        assert [(n, line) for n, line in imports(path) if n.split(".")[0] in ("trl", "diffusers", "sentence_transformers")] == []


def test_tasks_do_not_import_each_other() -> None:
    for path in (PACKAGE / "tasks").glob("*.py"):
        if path.name != "__init__.py":
            assert [n for n, _ in imports(path) if n.startswith("tuner.tasks.")] == []


def written() -> list[Path]:
    """Every Python file that is ours, scripts and tests included."""
    return [p for folder in ("tuner", "tests", "scripts", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("path", written(), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_first_line_says_what_the_file_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith(('"""', "#!")), first
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@each_file
def test_files_and_functions_fit_a_screen(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 220
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: (f.end_lineno or 0) - f.lineno + 1 for f in functions if (f.end_lineno or 0) - f.lineno >= 60} == {}


@each_file
def test_what_is_public_is_documented(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    named += [
        m for n in named if isinstance(n, ast.ClassDef) for m in n.body if isinstance(m, ast.FunctionDef) and not m.name.startswith("_")
    ]
    assert [n.name for n in named if ast.get_docstring(n) is None] == []


def test_no_file_names_a_package_registry_s_host() -> None:
    hosts = ("pypi" + ".org", "files.python" + "hosted")
    found = [
        p for p in (*written(), ROOT / "constraints.txt", ROOT / "pyproject.toml") if any(h in p.read_text(encoding="utf-8") for h in hosts)
    ]
    assert found == []
