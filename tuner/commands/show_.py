"""`tune show recipe=R [key=value …]`: the resolved recipe, each value with its origin (default, a file and line, the command line).

What is printed is itself a recipe. `--changed` leaves out defaults. `tune show RUN` shows the plan of a run and the recipe it froze.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tuner.commands.inventory import output_folder
from tuner.commands.request import Request, composed, parse
from tuner.errors import TuneError
from tuner.estimate import estimate
from tuner.plan import read_plan
from tuner.registry import load
from tuner.render import out, print_json, print_notes, print_plan
from tuner.runs import find_run
from tuner.schema.base import flat
from tuner.schema.documents import list_recipes
from tuner.schema.reading import Reading
from tuner.schema.recipe import DEFAULTS
from tuner.state import state_of, told

DEFAULT = "default"
WIDEST = 60  # lines longer than this do not push the origins of all others to the right


@dataclasses.dataclass(frozen=True)
class Value:
    """A recipe value and where it came from."""

    value: Any
    origin: str


def main(args: list[str]) -> int:
    """Show a recipe, or the plan of a run."""
    request = parse(args, flags=("--json", "--extensions", "--trust", "--changed"), words=1)
    if request.words:
        return _show_run(request)
    found = composed(request)
    print_notes(found.reading.notes)
    choices = {g: Value(o, choice_origin(found.reading, g)) for g, o in found.reading.choices.items()}
    values = {k: Value(v, found.reading.origin(k)) for k, v in flat(found.recipe).items()}
    if request.json:
        print_json({k: dataclasses.asdict(v) for k, v in _kept(choices | values, request).items()})
    else:
        _print_recipe(_kept(choices, request), _kept(values, request))
    return 0


def choice_origin(reading: Reading, group: str) -> str:
    """Where the option of a section was chosen."""
    if f"{group}={reading.choices[group]}" in reading.overrides:
        return "command line"
    for layer in reversed(reading.layers):
        if layer.document is None or not layer.origin.startswith("recipe "):
            continue
        for index, item in enumerate(layer.document.data.get("defaults") or []):
            if isinstance(item, dict) and group in item:
                return layer.document.where(f"defaults.{index}")
    return DEFAULT


def _kept(values: dict[str, Value], request: Request) -> dict[str, Value]:
    return {k: v for k, v in values.items() if "--changed" not in request.flags or v.origin != DEFAULT}


def _show_run(request: Request) -> int:
    """The plan of a run, and the recipe it froze."""
    if request.recipe:
        raise TuneError("RUN and recipe= exclude each other", request.words[0], "show a run, or what a recipe would be")
    folder = _find(request)
    plan = read_plan(folder / "plan.json")
    values = {k: Value(_at(plan.recipe, k), origin) for k, origin in plan.origins.items()}
    choices = {g: Value(option, "") for g, option in (DEFAULTS | plan.choices).items()}
    if request.json:
        print_json(dataclasses.asdict(plan))
        return 0
    command = load(plan.load_recipe().launcher.impl).command(Path(plan.folder) / "plan.json")
    print_plan(plan, estimate(plan), command=shlex.join(command))
    if state := state_of(folder):
        out.print(f"state      {told(state)}", markup=False)
    out.print()
    _print_recipe(choices, _kept(values, request))
    return 0


def _find(request: Request) -> Path:
    """The run's folder. Raises TuneError (code 2) with what was meant, a recipe perhaps."""
    word = request.words[0]
    try:
        return find_run(word, output_dir=output_folder(request))
    except TuneError as error:
        if word not in list_recipes():
            raise
        raise TuneError(f"no run called `{word}`", word, f"the recipe is shown by `tune show recipe={word}`") from error


def _at(values: dict[str, Any], key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _print_recipe(choices: dict[str, Value], values: dict[str, Value]) -> None:
    lines = [*_lines(choices, values)]
    width = max((len(text) for text, _ in lines if len(text) <= WIDEST), default=0)
    for text, origin in lines:
        out.print(f"{text:<{width}}  # {origin}" if origin else text, markup=False)
    if not lines:
        out.print("every value is its default")


def _lines(choices: dict[str, Value], values: dict[str, Value]) -> Iterator[tuple[str, str]]:
    """(YAML line, origin) of a recipe."""
    if choices:
        yield "defaults:", ""
    for group, choice in choices.items():
        yield f"  - {group}: {choice.value}", choice.origin
    open_sections: list[str] = []
    for key, value in sorted(values.items(), key=lambda item: "." in item[0]):  # keys of the recipe itself first
        *parents, name = key.split(".")
        for depth, parent in enumerate(parents):
            if parents[: depth + 1] != open_sections[: depth + 1]:
                yield f"{'  ' * depth}{parent}:", ""
        open_sections = parents
        yield f"{'  ' * len(parents)}{name}: {_yaml(value.value)}", value.origin


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000).removesuffix("\n").removesuffix("\n...")
