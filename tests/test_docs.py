"""The guide is true: generated pages are current, links lead somewhere, recipes in it plan, its command lines exist.

Code blocks say in their first line how they are tested (the rest of an info string is not shown on GitHub):

    ```yaml recipe      a whole recipe: it plans          ```yaml file my.yaml   written before the page's commands and recipes
    ```yaml part        plans, given a model and rows     ```console run         its commands print just what stands below them
    ```python file my.py    code of the reader's own, written likewise
    ```sh, ```console   every verb, flag and key exists; what has recipe= composes
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, write_rows
from tuner import cli
from tuner.checks import RULES
from tuner.commands import VERBS
from tuner.commands.merge_ import SETTINGS
from tuner.commands.request import parse
from tuner.plan import make_plan
from tuner.schema.compose import compose
from tuner.schema.documents import list_recipes
from tuner.schema.walk import all_keys

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\S*) ?(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
RUN_VERBS = ("eval", "report", "push", "try", "rm", "show", "compare")
OWN_SETTINGS = {"try": ("system", "max_new_tokens", "context", "passages", "answer", "threshold"), "merge": SETTINGS}
OWN_SETTINGS["compare"] = ("to",)
MODULE_FLAGS = {"--help", "--debug"}


@dataclass(frozen=True)
class Block:
    """A fenced block of a page. `tag`: what stands after the language in its first line."""

    page: Path
    language: str
    tag: str
    text: str
    line: int

    @property
    def id(self) -> str:
        """`docs/recipes.md:9`."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@cache
def blocks() -> list[Block]:
    """Every fenced block of every page."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found += [Block(page, m[1], m[2], m[3], text.count("\n", 0, m.start()) + 1) for m in FENCE.finditer(text)]
    return found


def each(chosen: list[Block]) -> pytest.MarkDecorator:
    assert chosen
    return pytest.mark.parametrize("block", chosen, ids=lambda b: b.id)


def lay_out(page: Path, folder: Path) -> None:
    """Write the files that a page shows, and rows where its recipes look for them."""
    for block in blocks():
        kind, _, name = block.tag.partition(" ")
        if block.page == page and kind == "file":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(block.text, encoding="utf-8")
        if block.page == page and block.language == "yaml":
            data = yaml.safe_load(block.text).get("data", {})
            for path in (folder / str(data[key]).replace("*", "one") for key in ("path", "eval_path") if key in data):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_rows(path, 20)


def commands(block: Block) -> list[str]:
    """The command lines of a block: each line of sh, what follows `$ ` in console."""
    lines = block.text.splitlines()
    return [line.removeprefix("$ ") for line in lines if block.language == "sh" or line.startswith("$ ")]


def test_the_generated_pages_are_current() -> None:
    done = subprocess.run([sys.executable, "scripts/make_docs.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\([^)]*\)", "", h).lower()).strip().replace(" ", "-") for h in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    assert broken == []


def test_every_page_of_the_guide_is_in_its_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert [p.name for p in (ROOT / "docs").rglob("*.md") if p.name != "index.md" and f"]({p.name})" not in index] == []


def test_every_block_says_what_it_is() -> None:
    known = {
        "yaml": ("recipe", "part", "file"),
        "python": ("file",),
        "console": ("", "run"),
        "sh": ("",),
        "text": ("",),
        "json": ("",),
        "toml": ("",),
    }
    untold = [b.id for b in blocks() if b.tag.partition(" ")[0] not in known.get(b.language or "text", ())]
    assert untold == []


@each([b for b in blocks() if b.language == "yaml" and b.tag in ("recipe", "part")])
def test_a_recipe_of_the_guide_plans(block: Block, project: Path) -> None:
    lay_out(block.page, project)
    (project / "shown.yaml").write_text(block.text, encoding="utf-8")
    content = yaml.safe_load(block.text)
    chosen = {key for item in content.get("defaults", []) for key in item}
    given = []
    if block.tag == "part":
        given += [] if "model" in content or "model" in chosen else ["model.id=org/name"]
        given += [] if "data" in content or "data" in chosen else ["data.path=train.jsonl"]
    plan = make_plan(compose("shown.yaml", given, rules=RULES))
    assert {"prepare", "train"} <= {s.name for s in plan.stages}


@pytest.mark.usefixtures("own_kinds")
@each([b for b in blocks() if b.language == "console" and b.tag == "run"])
def test_a_command_of_the_guide_prints_what_is_shown(block: Block, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lay_out(block.page, project)
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.partition("\n")
        program, *args = shlex.split(command)
        assert program == "tune"
        cli.main(args)
        printed = capsys.readouterr()
        assert (printed.out + printed.err).strip() == shown.strip(), command


@each([b for b in blocks() if b.language in ("sh", "console") and not b.tag])
def test_a_command_line_of_the_guide_exists(block: Block, project: Path) -> None:
    lay_out(block.page, project)
    for line in commands(block):
        words = [w for w in shlex.split(line, comments=True) if not re.fullmatch(r"[A-Z_]+=.*", w)]
        if words and words[0] == "tune":
            check_tune(words[1:])
        scripts = [w for w in words if re.match(r"(\./)?scripts/", w)]
        assert [s for s in scripts if not (ROOT / s).is_file()] == []


def check_tune(words: list[str]) -> None:
    """Its verb, flags, number of words and keys exist; a recipe that is shipped or shown composes with the overrides."""
    verb, args = (words[0], words[1:]) if words[0] in VERBS else ("run", words)
    if verb == "completion" or set(args) & MODULE_FLAGS:
        return
    request = parse(args, **limits(verb))
    if request.recipe and (request.recipe in list_recipes() or Path(request.recipe).is_file()):
        compose(request.recipe, request.overrides, rules=())
    keys = [o.partition("=")[0] for o in request.overrides]
    sections = {k.partition(".")[0] for k in all_keys()}
    assert [k for k in keys if k not in all_keys() and k not in sections and k not in OWN_SETTINGS.get(verb, ())] == []
    assert not request.recipe or verb not in set(RUN_VERBS) - {"show"}


@cache
def limits(verb: str) -> dict[str, Any]:
    """The flags and the number of words that a verb hands to `parse`, read from its source."""
    tree = ast.parse((ROOT / "tuner" / "commands" / f"{verb}_.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "parse"]
    assert len(calls) == 1, verb
    return {k.arg: ast.literal_eval(k.value) for k in calls[0].keywords if k.arg in ("flags", "words")}


def test_the_readme_is_short_and_its_recipes_are_as_long_as_it_says() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130
    lengths = [len(b.text.splitlines()) for b in blocks() if b.page.name == "README.md" and b.tag == "recipe"]
    assert lengths == [3, 12]


def test_json_of_the_guide_is_json() -> None:
    for block in blocks():
        if block.language == "json":
            for line in block.text.splitlines():
                assert json.loads(line) is not None


def test_the_chinese_readme_keeps_step() -> None:
    """The same commands and recipes, figures, and places that it leads to."""

    def parts(name: str) -> tuple[list[str], list[str], set[str]]:
        text = (ROOT / name).read_text(encoding="utf-8")
        code = re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)
        figures = re.findall(r"\d\.\d\d", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
        return code, figures, {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)} - {"README.md", "README.zh.md"}

    assert parts("README.zh.md") == parts("README.md")
