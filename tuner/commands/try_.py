"""`tune try RUN [PROMPT]` sets base against tuned, `tune try MODEL [PROMPT]` talks to any model (option, Hub id, folder).

tune try smollm2-135m "What is the capital of France?"
tune try quickstart                        a conversation; an empty line ends it
tune try quickstart "My kettle broke" system="…" max_new_tokens=64 --json
"""

from __future__ import annotations

import sys
from pathlib import Path

from tuner.commands.inventory import take_run
from tuner.commands.request import parse
from tuner.errors import TuneError
from tuner.plan import read_plan
from tuner.registry import load
from tuner.schema.documents import find_option, list_options
from tuner.schema.hardware import Hardware
from tuner.schema.model import Model
from tuner.schema.recipe import from_section

MAX_NEW_TOKENS = 256


def main(args: list[str]) -> int:
    """Load what the first word names, then answer one prompt or hold a conversation."""
    request = parse(args, words=2)
    if not request.words:
        raise TuneError("try what?", "", "`tune try RUN` or `tune try MODEL`; see `tune ls runs` and `tune ls model`")
    target = _model(request.words[0]) or read_plan(take_run(request) / "plan.json")
    system, limit = _settings(request.overrides)
    load("tuner.worker_env").quiet()
    chat = load("tuner.serve.chat")
    if isinstance(target, Model):
        voices = chat.voices_of_model(target, Hardware())
    else:
        voices, system = chat.voices_of_run(target), system or chat.system_of_run(target)
    prompt = request.words[1] if len(request.words) > 1 else "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if prompt:
        chat.ask(voices, prompt, system=system, max_new_tokens=limit, as_json=request.json)
    else:
        chat.converse(voices, system=system, max_new_tokens=limit)
    return 0


def _settings(overrides: list[str]) -> tuple[str | None, int]:
    """(system message, longest answer in tokens). Raises TuneError (code 2) for anything else that is set."""
    given = {"system": "", "max_new_tokens": str(MAX_NEW_TOKENS)}
    for override in overrides:
        key, _, value = override.partition("=")
        if key not in given:
            raise TuneError(f"unknown setting `{key}`", override, f"settings: {', '.join(given)}")
        given[key] = value
    if not given["max_new_tokens"].isdigit() or given["max_new_tokens"] == "0":
        raise TuneError("`max_new_tokens` is a number of tokens", f"max_new_tokens={given['max_new_tokens']}", "as 64")
    return given["system"] or None, int(given["max_new_tokens"])


def _model(target: str) -> Model | None:
    """The model that a word names, None when it can only be a run."""
    if (Path(target) / "plan.json").is_file():
        return None
    if target in list_options("model") and (option := find_option("model", target, where="MODEL")):
        return from_section(Model, option.data)
    if (Path(target) / "config.json").is_file() or target.count("/") == 1:
        return Model(id=target)
    return None
