"""`tune explain` lists the sections, `tune explain trainer` its keys, `tune explain trainer.learning_rate` (or `lr`) one key.

`tune explain transforms.strip_html` explains a step of `data.transforms`.

For a key: its meaning, type, default, range, which options of its section have it, how to write it on the command line, and what
changing it does to a finished run.
"""

from __future__ import annotations

import dataclasses

from tuner.commands.request import extend, parse
from tuner.commands.transforms import explain_transform
from tuner.errors import TuneError
from tuner.render import out, print_json, table
from tuner.schema.describe import Key, describe, describe_option, keys_below, sections, senses
from tuner.schema.documents import list_options
from tuner.schema.recipe import DEFAULTS, Recipe, section_class
from tuner.schema.synonyms import SYNONYMS
from tuner.schema.walk import all_keys, suggest


def main(args: list[str]) -> int:
    """Explain sections, one section or one key."""
    keys = [a if a.startswith("-") else a.partition("=")[0] for a in args]  # `explain trainer.learning_rate=1e-4` asks about the key
    request = parse(keys, flags=("--json", "--extensions", "--trust"), words=1)
    extend(request)
    if not request.words:
        return _overview(json=request.json)
    section, _, last = request.words[0].removeprefix("data.").partition(".")
    if last and section.removesuffix("s") == "transform":
        return explain_transform(last, json=request.json)
    name = "data.mix" if request.words[0].startswith("data.mix.") else find_key(request.words[0])  # its names are the person's
    if name in all_keys():
        return _key(senses(name), json=request.json)
    return _section(name, json=request.json)


def find_key(word: str) -> str:
    """The key or section that a word stands for: as written, by its last part, or as other tools call it.

    Raises TuneError (code 2) with the nearest name.
    """
    known = [*all_keys(), *sections()]
    same_end = [k for k in known if k.rpartition(".")[2] == word]
    if word in known:
        return word
    if len(same_end) == 1:
        return same_end[0]
    meant = SYNONYMS.get(word.rpartition(".")[2].lower().replace("-", "_"))
    if meant in known:
        return str(meant)
    if same_end:
        raise TuneError(f"`{word}` is the name of several keys", word, f"say which: {', '.join(same_end)}")
    cls = section_class(word.partition(".")[0]) if word.partition(".")[0] in DEFAULTS else Recipe
    raise TuneError(f"unknown key `{word}`", word, f"{suggest(word, cls)} (`tune explain` lists the sections)")


def _overview(*, json: bool) -> int:
    top = [describe(k) for k in all_keys() if "." not in k]
    if json:
        print_json({"sections": {k: v for k, v in sections().items() if "." not in k}, "keys": [_as_json(k) for k in top]})
        return 0
    table(
        ["section", "keys", "what it says"],
        [[s, str(len({k.name for k in keys_below(s)})), doc] for s, doc in sections().items() if s in DEFAULTS],
        right=[1],
    )
    out.print()
    table(["key", "", "what it says"], [[k.name, "", k.doc] for k in top])
    out.print("\nnext: `tune explain trainer` for its keys, `tune explain trainer.learning_rate` for one")
    return 0


def _section(name: str, *, json: bool) -> int:
    keys = keys_below(name)
    options = {o: describe_option(name, o) for o in list_options(name)} if name in DEFAULTS else {}
    if json:
        print_json({"section": name, "doc": sections()[name], "options": options, "keys": [_as_json(k) for k in keys]})
        return 0
    out.print(f"{name}: {sections()[name]}\n", markup=False)
    if len(options) > 1:
        table(["option", "what it is"], [[_option(name, o), doc] for o, doc in options.items()])
        out.print()
    table(["key", "default", "what it says"], [[k.name, _default(k), k.doc + _only(k)] for k in keys])
    if not keys:
        out.print("no keys of its own: choose one of its options")
    return 0


def _key(meanings: list[Key], *, json: bool) -> int:
    if json:
        more = {"senses": [_as_json(key) for key in meanings]} if len(meanings) > 1 else {}
        print_json(_as_json(meanings[0]) | more)
        return 0
    for number, key in enumerate(meanings):
        if number:
            out.print()
        _meaning(key)
    return 0


def _meaning(key: Key) -> None:
    section, _, last = key.name.rpartition(".")
    others = sorted(word for word, meant in SYNONYMS.items() if meant == key.name)
    rows = {
        "type": f"{key.type}, {key.range}" if key.range else key.type,
        "default": _default(key),
        "only with": ", ".join(f"{section}={o}" for o in key.options),
        "type it": f"tune recipe=… {key.example}",
        "in a file": f"{section}: {{{last}: …}}" if section and "." not in section else "",
        "changing it": key.consequence,
        "other names": ", ".join(others),
    }
    out.print(f"{key.name}\n  {key.doc}\n", markup=False)
    for title, text in rows.items():
        if text:
            out.print(f"  {title:<12} {text}", markup=False)


def _default(key: Key) -> str:
    if key.required:
        return "must be set"
    if key.default is None:
        return "not set"
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)


def _only(key: Key) -> str:
    return f" ({'|'.join(key.options)} only)" if key.options else ""


def _option(group: str, option: str) -> str:
    return f"{option} (default)" if DEFAULTS[group] == option else option


def _as_json(key: Key) -> dict[str, object]:
    return dataclasses.asdict(key) | {"range": key.range, "changing_it": key.consequence}
