"""What `tune ls transforms` and `tune explain transforms.strip_html` print."""

from __future__ import annotations

import dataclasses

from tuner.errors import TuneError, nearest
from tuner.render import out, print_json, table
from tuner.schema.transforms.describe import About, Argument, describe, names
from tuner.schema.transforms.reading import ALSO


def list_transforms(*, json: bool) -> None:
    """Every transform with what it does."""
    found = [describe(name) for name in names()]
    if json:
        print_json(
            [
                {"name": a.name, "doc": a.doc, "drops": a.drops, "held_out": a.held_out, "example": a.example, "origin": a.origin}
                for a in found
            ]
        )
        return
    table(["transform", "what it does"], [[a.name, a.doc] for a in found if a.origin == "tune"])
    if added := [a for a in found if a.origin != "tune"]:
        out.print()
        table(["added", "from", "what it does"], [[a.name, a.origin, a.doc] for a in added])
    out.print("\nuse: `data: {transforms: [strip_html, {min_words: 5}]}`; arguments: `tune explain transforms.NAME`", markup=False)


def explain_transform(name: str, *, json: bool) -> int:
    """One transform with its arguments. Raises TuneError (code 2) with the nearest name."""
    if name not in names():
        guess = nearest(name, names(), synonyms=ALSO)
        fix = f"did you mean `tune explain transforms.{guess}`?" if guess else "see `tune ls transforms`"
        raise TuneError(f"unknown transform `{name}`", f"transforms.{name}", fix)
    about = describe(name)
    if json:
        print_json(dataclasses.asdict(about))
        return 0
    out.print(f"transforms.{name}\n  {about.doc}\n", markup=False)
    source = {} if about.origin == "tune" else {"from": about.origin}
    for title, text in (source | {"in a file": f"data: {{transforms: [{_inline(about)}]}}", "held-out rows": _held_out(about)}).items():
        out.print(f"  {title:<13} {text}", markup=False)
    if about.arguments:
        out.print()
        table(["argument", "type", "default", "what it is"], [[a.name, _type(a), _default(a), _doc(a)] for a in about.arguments])
    return 0


def _inline(about: About) -> str:
    """The example as an item of a flow list."""
    return about.example if ": " not in about.example else f"{{{about.example}}}"


def _held_out(about: About) -> str:
    return "get it too: the model is asked in the same shape" if about.held_out else "do not get it"


def _type(argument: Argument) -> str:
    return f"{argument.type}, {argument.range}" if argument.range else argument.type


def _default(argument: Argument) -> str:
    if argument.required:
        return "must be set"
    if argument.default is None:
        return "not set"
    return str(argument.default).lower() if isinstance(argument.default, bool) else repr(argument.default)


def _doc(argument: Argument) -> str:
    return f"{argument.doc} A single value is this one." if argument.main else argument.doc
