"""YAML files with line numbers: `find_recipe("sft/x")` and `find_option("model", "smollm2-135m")` give a Document or say what is near."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_yaml_loader

from tuner.errors import TuneError, nearest
from tuner.registry import kinds
from tuner.runs import find_run, read_json
from tuner.schema.recipe import GROUPS

PACKAGE = Path(__file__).resolve().parent.parent
CONF = PACKAGE / "conf"
# An installed wheel carries the recipes inside the package, a checkout has them beside it.
SHIPPED_RECIPES = next(p for p in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if p.is_dir() or p.parent == PACKAGE.parent)
# Sections of which people bring their own, and the key that names it.
RUN = "run:"  # `model=run:NAME`, `adapter.continue_from=run:NAME`
OWN = {"model": "model.id", "data": "data.path"}
MANY = 20  # options that an error still lists one by one


@dataclass
class Document:
    """A parsed YAML mapping: `data`, and the line (from 1) of each dotted key in `lines`."""

    path: Path
    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """`file:line` of a dotted key, or of its nearest parent."""
        while key and key not in self.lines:
            key = key.rpartition(".")[0]
        return f"{display(self.path)}:{self.lines.get(key, 1)}"

    @property
    def summary(self) -> str:
        """The description in the file's first comment that is not for an editor, for `tune ls`."""
        comments = (line[1:].strip() for line in self.path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
        text = next((c for c in comments if not c.startswith("yaml-language-server")), "")
        return text.split(" — ", 1)[-1]


def display(path: Path) -> str:
    """The path as a person would type it from here; shipped files relative to the installation."""
    for base in (Path.cwd(), SHIPPED_RECIPES.parent, PACKAGE.parent):
        if path.is_relative_to(base):
            return str(path.relative_to(base))
    return str(path)


@cache
def read(path: Path) -> Document:
    """Parse a YAML mapping. Raises TuneError (code 2) naming file and line when it cannot be read as one."""
    loader_class = get_yaml_loader()
    try:
        text = path.read_text(encoding="utf-8")
        loader = loader_class(text)
        node = loader.get_single_node()
        data = loader.construct_document(node) if node is not None else {}
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise TuneError(f"not valid YAML: {error.problem}", f"{display(path)}:{line}", "mind indentation, colons and quotes") from error
    except yaml.reader.ReaderError as error:
        raise TuneError(f"not a text file: {error.reason}", display(path), "recipes are YAML text in UTF-8") from error
    except (OSError, UnicodeDecodeError) as error:
        raise TuneError(f"cannot read the file: {error}", display(path), "recipes are YAML text in UTF-8") from error
    if not isinstance(data, dict):
        raise TuneError("not a mapping of keys to values", f"{display(path)}:1", "a recipe looks like `data: {path: train.jsonl}`")
    document = Document(path=path, data=data)
    if node is not None:
        document.lines.update(_lines(node, ""))
    return document


def _lines(node: yaml.Node, prefix: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            dotted = f"{prefix}{key.value}"
            yield dotted, key.start_mark.line + 1
            yield from _lines(value, f"{dotted}.")
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield f"{prefix}{index}", item.start_mark.line + 1
            yield from _lines(item, f"{prefix}{index}.")


def recipe_roots() -> list[Path]:
    """Folders in which recipes are looked up by name, a person's own first."""
    return [root for root in (Path.cwd() / "recipes", SHIPPED_RECIPES) if root.is_dir()]


def list_recipes() -> dict[str, Path]:
    """Every recipe that can be named, by name; a person's own hides a shipped one of the same name."""
    found: dict[str, Path] = {}
    for root in recipe_roots():
        for path in sorted(root.rglob("*.yaml")):
            found.setdefault(str(path.relative_to(root).with_suffix("")), path)
    return dict(sorted(found.items()))


def find_recipe(name: str, *, where: str = "recipe=", beside: Path | None = None) -> Document:
    """The recipe called `name`, or the one in the file `name`, from here or from the folder `beside`. Raises TuneError (code 2)."""
    if name.endswith((".yaml", ".yml")) or (os.sep in name and name.startswith((".", "/", "~"))):
        path = Path(name).expanduser()
        for candidate in (beside / path, path) if beside else (path,):
            if candidate.is_file():
                return read(candidate.resolve())
        raise TuneError(f"no such recipe file: {name}", where, "check the path; `tune ls recipes` lists the recipes by name")
    known = list_recipes()
    if name in known:
        return read(known[name])
    guess = nearest(name, known) or nearest(name, {k.rpartition("/")[2]: k for k in known})
    hint = f"did you mean `{guess}`?" if guess else f"recipes: {', '.join(list(known)[:12]) or 'none found'}"
    raise TuneError(f"unknown recipe `{name}`", where, f"{hint} (`tune ls recipes`; a file needs its ending: recipe=my.yaml)")


def list_options(group: str) -> dict[str, Path | None]:
    """Options of a recipe section by name: value files of `tuner/conf/<group>/`, and schema variants (no file)."""
    files: dict[str, Path | None] = {p.stem: p for p in (CONF / group).glob("*.yaml")}
    return dict(sorted((dict.fromkeys(kinds(group)) | files).items()))


def find_option(group: str, name: str, *, where: str) -> Document | None:
    """The value file of an option, None when the option is a schema variant. Raises TuneError (code 2) with the nearest name."""
    options = list_options(group)
    if name in options:
        path = options[name]
        return None if path is None else read(path)
    guess, own = nearest(name, options), OWN.get(group)
    hint = f"did you mean `{guess}`? " if guess else f"your own is `{own}={name}`; " if own and ("/" in name or "." in name) else ""
    listed = f"{group}: {', '.join(options)}" if len(options) <= MANY else f"`tune ls {group}` lists them"
    raise TuneError(f"unknown {group} `{name}`", where, f"{hint}{listed}")


def option_of(name: str) -> str:
    """The option of Hydra's that a choice stands for: that of `model=run:NAME` is the empty one, over which the run's values are laid."""
    return "custom" if name.startswith(RUN) else name


def model_of_run(name: str, *, output_dir: str, where: str) -> Document:
    """The `model:` section of the finished run that `run:NAME` names, with `run` set to its folder. Raises TuneError (code 2)."""
    folder = finished_run(name, output_dir=output_dir, where=where)
    model = read_json(folder / "plan.json")["recipe"]["model"]
    path = list_options("model")["custom"]
    assert path is not None
    return Document(path=path, data={**model, "run": str(folder), "chat_template": None, "add_tokens": []})  # its tokenizer has them


def finished_run(name: str, *, output_dir: str, where: str) -> Path:
    """The folder of a trained run, by name, `name@key-prefix` or folder, with or without `run:`. Raises TuneError (code 2)."""
    try:
        folder = find_run(name.removeprefix(RUN), output_dir=Path(output_dir).expanduser())
    except TuneError as error:
        raise TuneError(problems=[replace(p, where=where) for p in error.problems]) from error
    if not any((folder / "stages").glob("train-*.json")):
        raise TuneError(f"the run in {display(folder)} is not trained yet", where, "run it to its end first")
    state = read_json(folder / "state.json") if (folder / "state.json").is_file() else {}
    if state.get("status") == "failed" and state.get("stage") == "evaluate":
        raise TuneError(f"the run in {display(folder)} failed after its training: {state.get('reason')}", where, "run it to its end first")
    recipe = read_json(folder / "plan.json")["recipe"] if (folder / "plan.json").is_file() else {}
    look = recipe.get("debug", {}).get("kind", "none")
    if not any(folder.glob("*.safetensors")) and look != "none":
        raise TuneError(f"the run in {display(folder)} is a look (debug={look}): it has no result", where, "name a run that was trained")
    return folder


def find_group(name: str, *, where: str) -> str:
    """`name` if it is a recipe section that has options. Raises TuneError (code 2) with the nearest one."""
    if name in GROUPS:
        return name
    guess = nearest(name, GROUPS)
    raise TuneError(f"unknown section `{name}`", where, f"did you mean `{guess}`?" if guess else f"sections: {', '.join(GROUPS)}")
