"""`tune cp quickstart my.yaml`: a copy of a recipe, comments included, to start your own. Nothing is overwritten."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.files import find_files
from tuner.render import out, print_notes, shorten
from tuner.runs import write_text
from tuner.schema.documents import Document, find_recipe, list_recipes

EDITOR_LINE = re.compile(r"#\s*yaml-language-server:\s*\$schema=(\S+)")
DATA_KEYS = ("path", "eval_path")


def main(args: list[str]) -> int:
    """Copy a recipe."""
    request = parse(args, flags=(), words=2)
    words = [request.recipe, *request.words] if request.recipe else request.words
    if len(words) != 2:
        fix = f"write `tune cp RECIPE FILE`, as `tune cp quickstart my.yaml`; recipes: {', '.join(list(list_recipes())[:12])}"
        raise TuneError("cp needs a recipe and a file", "", fix)
    source = find_recipe(words[0], where=words[0])
    target = _target(words[1], source)
    notes: list[str] = []
    text = "".join(_lines(source, words[0], target, notes))
    write_text(target, text)
    notes += _lost_files(source, target)
    out.print(f"wrote {shorten(target)}", markup=False)
    print_notes(notes)
    command = f"tune {_argument(target)}"
    out.print(f"next: edit it, look with `{command} dry_run=true`, run with `{command}`", markup=False)
    return 0


def _argument(target: Path) -> str:
    """`recipe=FILE` as it is typed in a shell."""
    return shlex.quote(f"recipe={shorten(target)}")


def _target(word: str, source: Document) -> Path:
    path = Path(word).expanduser().absolute()
    if path.is_dir():
        path = path / source.path.name
    if path.suffix not in (".yaml", ".yml"):
        raise TuneError(f"a recipe file ends in .yaml: {word}", word, f"write `{shlex.quote(word + '.yaml')}`")
    if path.exists():
        raise TuneError(f"the file is already there: {shorten(path)}", word, "choose another name; cp overwrites nothing")
    return path


def _lines(source: Document, name: str, target: Path, notes: list[str]) -> list[str]:
    """The recipe's lines; those that would be wrong in another place or under another name are put right."""
    lines = []
    for line in source.path.read_text(encoding="utf-8").splitlines(keepends=True):
        if found := EDITOR_LINE.match(line):
            schema = found[1] if "://" in found[1] else _schema_from(source.path.parent / found[1], target)
            if schema is None:
                fix = "`tune schema recipe.schema.json`, then `# yaml-language-server: $schema=recipe.schema.json` as its first line"
                notes.append(f"for completion in an editor: {fix}")
                continue
            line = line.replace(found[1], schema)
        elif line.startswith("#"):
            line = re.sub(rf"recipe={re.escape(name)}(?![\w./-])", lambda _: _argument(target), line)
        lines.append(line)
    return lines


def _schema_from(schema: Path, target: Path) -> str | None:
    """The schema's path as seen from the copy; None where the copy lies outside of the schema's tree and may travel without it."""
    schema = schema.resolve()
    if schema.is_file() and target.is_relative_to(schema.parent):
        return os.path.relpath(schema, target.parent)
    return None


def _lost_files(source: Document, target: Path) -> list[str]:
    """Data files that were found beside the recipe and will not be found beside its copy."""
    section = source.data.get("data")
    notes = []
    for key in DATA_KEYS:
        value = section.get(key) if isinstance(section, dict) else None
        if not isinstance(value, str):
            continue
        try:
            old = find_files(value, places=[source.path.parent, Path.cwd()])
        except TuneError:
            continue
        try:
            same = find_files(value, places=[target.parent, Path.cwd()]) == old
        except TuneError:
            same = False
        if not same:
            place = source.path.parent / value
            notes.append(f"`data.{key}: {value}` lies beside the original, not beside the copy: write `{place}`, or copy the file too")
    return notes
