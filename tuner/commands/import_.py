"""`tune import FILE`: a recipe from an axolotl or LLaMA-Factory configuration, or from TRL's YAML or command line.

Says of each line what it became, what has no counterpart (and why), and what the other tool ignores or refuses, such as a mistyped key.
`--out recipes/x.yaml` writes the recipe, else it is printed; `--num-devices 8`: so many devices shared a step there (1, if not said);
`--from axolotl|llamafactory|trl`: whose file it is, where its keys do not tell. The recipe is planned before it counts as done.
"""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path

from tuner.checks import RULES
from tuner.commands.request import parse
from tuner.errors import BAD_RECIPE, TuneError
from tuner.imports.draft import Draft, State, shown
from tuner.imports.read import convert, read_config, recipe_text, which
from tuner.plan import make_plan
from tuner.render import out, print_error, print_json, print_notes
from tuner.runs import write_text
from tuner.schema.compose import compose

SETTINGS = ("--out", "--num-devices", "--from")


def main(args: list[str]) -> int:
    """Convert, say what became of each line, plan, write."""
    given, rest = _settings(args)
    request = parse(rest, flags=("--json",), words=1)
    if not request.words:
        raise TuneError("which file?", "", "say `tune import FILE`, a configuration of axolotl, LLaMA-Factory or TRL")
    source, target = Path(request.words[0]).expanduser(), Path(given.get("--out", "")).expanduser()
    if "--out" in given and (target.exists() or target.suffix not in (".yaml", ".yml")):
        raise TuneError(
            f"cannot write {target}: it is there already, or does not end in .yaml", "--out", "choose another name; nothing is overwritten"
        )
    devices = given.get("--num-devices", "1")
    if not devices.isdigit() or devices == "0":
        raise TuneError(f"`--num-devices` is a number, not {devices}", "--num-devices", "as `--num-devices 8`")
    config = read_config(source)
    peer = which(config, given.get("--from", ""))
    draft = convert(config, peer, devices=int(devices))
    if "--num-devices" not in given:
        draft.notes.append("one device is assumed in `trainer.batch_size`: say `--num-devices N` if more shared a step")
    text = recipe_text(draft, title=f"{source.stem} — from {peer.name}'s {source.name}")
    if not request.json:
        _say(draft)
    problem = _plan(text, beside=source.parent)
    if "--out" in given:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_text(target, text)
    if request.json:
        print_json({"from": peer.name, "lines": [dataclasses.asdict(line) for line in draft.lines], "notes": draft.notes, "recipe": text})
    else:
        print_notes(draft.notes)
        out.print(f"wrote {target}; look with `tune recipe={target} dry_run=true`" if "--out" in given else text, markup=False)
    if problem is not None:
        print_error(problem)
        return BAD_RECIPE
    return 0


def _settings(args: list[str]) -> tuple[dict[str, str], list[str]]:
    """Flags with a value, and the rest."""
    given: dict[str, str] = {}
    rest: list[str] = []
    left = iter(args)
    for arg in left:
        key, equals, value = arg.partition("=")
        if key in SETTINGS:
            given[key] = value if equals else next(left, "")
        else:
            rest.append(arg)
    return given, rest


def _say(draft: Draft) -> None:
    for state in State:
        for line in (li for li in draft.lines if li.state == state):
            ours = f" -> {line.ours}" if line.ours else ""
            out.print(f"{state:<14} {line.key}: {shown(line.value)}{ours}{f' ({line.note})' if line.note else ''}", markup=False)


def _plan(text: str, *, beside: Path) -> TuneError | None:
    """Compose the recipe (raises what is wrong with it, with its line) and plan it; what only the data files lack is returned."""
    with tempfile.TemporaryDirectory(prefix="tune-import-") as folder:
        path = Path(folder) / "imported.yaml"
        path.write_text(text, encoding="utf-8")
        try:
            found = compose(str(path), [], rules=RULES)
        except TuneError as error:
            places = [dataclasses.replace(problem, where=_line_of(problem.where, text)) for problem in error.problems]
            raise TuneError(problems=places, code=error.code) from error
        try:
            make_plan(found)
        except TuneError as error:
            return error
    return None


def _line_of(place: str, text: str) -> str:
    """A place in the recipe that was made: `the recipe, line 8: "task: {beta: -1}"`."""
    name, _, line = place.rpartition(":")
    if not name.endswith("imported.yaml") or not line.isdigit():
        return place
    return f"the recipe, line {line}: `{text.splitlines()[int(line) - 1].strip()}`"
