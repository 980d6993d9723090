"""`tune schema FILE`: the JSON Schema of a recipe, for completion and checks in an editor; without FILE, to the terminal.

A recipe names it in its first line: `# yaml-language-server: $schema=recipe.schema.json`.
"""

from __future__ import annotations

import json
from pathlib import Path

from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.registry import load_extensions
from tuner.render import out, print_json, shorten
from tuner.runs import write_json
from tuner.schema.json_schema import json_schema


def main(args: list[str]) -> int:
    """Print or write the schema."""
    request = parse(args, words=1)
    load_extensions()
    if not request.words:
        print_json(json_schema())
        return 0
    path = Path(request.words[0]).expanduser()
    if path.exists() and not _is_schema(path):
        fix = "choose another name, as `tune schema recipe.schema.json`; only a JSON Schema is written anew"
        raise TuneError(f"the file is already there and is no JSON Schema: {shorten(path)}", request.words[0], fix)
    write_json(path, json_schema())
    if request.json:
        print_json({"written": str(path)})
    else:
        out.print(f"wrote {path}; the first line of a recipe beside it: # yaml-language-server: $schema={path.name}", markup=False)
    return 0


def _is_schema(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and "$schema" in found
