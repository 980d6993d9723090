"""Reads a verb's arguments: `parse(["recipe=quickstart", "trainer.learning_rate=1e-3", "--json"])`, and composes what they name."""

from __future__ import annotations

from dataclasses import dataclass, field

from tuner.checks import RULES
from tuner.errors import TuneError, nearest
from tuner.extensions import load_files
from tuner.plan import Plan, make_plan
from tuner.registry import Origin, load
from tuner.render import print_notes
from tuner.schema.compose import Composed, compose
from tuner.schema.documents import list_recipes

SWITCHES = ("dry_run", "refresh")
OWN = "--extensions"


@dataclass
class Request:
    """A command line, sorted: the recipe, plain words, overrides, run switches and flags."""

    recipe: str = ""
    words: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    switches: set[str] = field(default_factory=set)
    flags: set[str] = field(default_factory=set)
    extensions: list[str] = field(default_factory=list)

    @property
    def json(self) -> bool:
        """Whether output is for a program."""
        return "--json" in self.flags


def parse(args: list[str], *, flags: tuple[str, ...] = ("--json",), words: int = 0) -> Request:
    """Sort a verb's arguments. Raises TuneError (code 2) for an unknown flag or a word too many."""
    request = Request()
    left = iter(args)
    for arg in left:
        key, equals, value = arg.partition("=")
        if key == OWN and OWN in flags:
            request.extensions.append(_file(value if equals else next(left, "")))
            continue
        if key == "-m":
            raise TuneError("`-m` starts a sweep, which this release does not have yet", arg, "run the recipe once for each value")
        if arg.startswith("-") and arg != "-":
            if arg not in flags:
                guess = nearest(arg, flags)
                fix = f"flags: {', '.join(flags)}" if flags else "this verb takes no flags"
                raise TuneError(f"unknown flag `{arg}`", arg, f"did you mean `{guess}`?" if guess else fix)
            request.flags.add(arg)
        elif not equals and not arg.startswith("~"):
            request.words.append(arg)
        elif key == "recipe":
            request.recipe = value
        elif key in SWITCHES:
            if value.lower() not in ("true", "false"):
                raise TuneError(f"`{key}` is true or false", arg, f"write {key}=true")
            request.switches |= {key} if value.lower() == "true" else set()
        else:
            request.overrides.append(arg)
    if len(request.words) > words:
        word = request.words[words]
        raise TuneError(f"cannot place `{word}`", word, _place(word, flags))
    return request


def _file(named: str) -> str:
    if not named or named.startswith("-"):
        raise TuneError(f"`{OWN}` needs a file", OWN, f"as `{OWN} extensions.py --trust`")
    return named


def _place(word: str, flags: tuple[str, ...]) -> str:
    """What a word that is too many was probably meant to be."""
    if word in SWITCHES:
        return f"write `{word}=true`"
    if f"--{word}" in flags:
        return f"did you mean `--{word}`?"
    if word in list_recipes():
        return f"did you mean `recipe={word}`?"
    return "values are given as key=value; values with spaces need quotes: 'data.system=\"Be brief.\"'; usage: `tune VERB --help`"


def command_meant(args: list[str]) -> str:
    """The command that `tune quickstart`, `tune my.yaml` or `tune recipe quickstart` stands for; empty when none."""
    word = args[1] if args[0] in ("recipe", "run") and len(args) > 1 else args[0]
    return f"recipe={word}" if word.endswith((".yaml", ".yml")) or word in list_recipes() else ""


def extend(request: Request) -> list[Origin]:
    """Load what other packages add, and the person's own files (returned). Raises TuneError (code 2) for a file without `--trust`."""
    if "--trust" in request.flags and not request.extensions:
        raise TuneError("`--trust` trusts the files of `--extensions`, and none is named", "--trust", f"add `{OWN} FILE`")
    return load_files(request.extensions, trust="--trust" in request.flags)


def composed(request: Request) -> Composed:
    """Compose the recipe that a request names. Raises TuneError (code 2) with all problems."""
    extend(request)
    if not request.recipe:
        names = list(list_recipes())
        raise TuneError("which recipe?", "", f"say `recipe=NAME` or `recipe=FILE.yaml`; recipes: {', '.join(names[:12])}")
    return compose(request.recipe, request.overrides, rules=RULES)


def planned(request: Request) -> Plan:
    """Compose and freeze; prints what was decided on the person's behalf."""
    found = composed(request)
    print_notes(found.reading.notes)
    if "refresh" in request.switches:
        load("tuner.hub.revisions").resolve(found.recipe)
    return make_plan(found)
