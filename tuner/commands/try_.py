"""`tune try RUN [PROMPT]` sets base against tuned, `tune try MODEL [PROMPT]` talks to any model (option, Hub id, folder).

Of labels, boxes, passages, answers in a text and rewards it shows the tuned model alone: what gives them is new, and the base has none.

tune try smollm2-135m "What is the capital of France?"
tune try sentiment "A lovely film"         the labels of a model that gives some
tune try flowers photo.jpg                 of one that labels images, an image file
tune try reader "Who wrote it?" context=@story.txt    of one that finds answers, the text (or context="…", or on stdin)
tune try ranker "warm gloves" passages=@hits.txt      of one that ranks passages, a line each (or passages="one|other", or on stdin)
tune try judge "Who wrote Faust?" answer="Goethe."    of a reward model, what an answer is worth
tune try streets photo.jpg                 of one that labels pixels: PNG files of base, tuned and its mask
tune try spotter photo.jpg threshold=0.3   of one that finds objects: the boxes, and a PNG file with them
tune try shapes "a red circle"             of one that paints: PNG files of base and tuned
tune try looker photo.jpg "What is it?"    of one that sees and writes, an image file and a question
tune try quickstart                        a conversation; an empty line ends it
tune try quickstart "My kettle broke" system="…" max_new_tokens=64 --json
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tuner.commands.inventory import take_run
from tuner.commands.request import Request, parse
from tuner.errors import TuneError
from tuner.plan import Plan, read_plan
from tuner.registry import load
from tuner.runs import find_run
from tuner.schema.documents import find_option, list_options
from tuner.schema.hardware import Hardware
from tuner.schema.model import Model
from tuner.schema.recipe import from_section

MAX_NEW_TOKENS = 256
# What answers, by the task, or by what its models end with.
SERVES = {
    "audio": "tuner.serve.sounds",
    "detection": "tuner.serve.boxes",
    "diffusion": "tuner.serve.painted",
    "embedding": "tuner.serve.vectors",
    "image": "tuner.serve.pictures",
    "rerank": "tuner.serve.ranked",
    "reward": "tuner.serve.judged",
    "segment": "tuner.serve.segmented",
    "seq2seq": "tuner.serve.written",
    "span": "tuner.serve.answers",
    "speech": "tuner.serve.sounds",
}


def main(args: list[str]) -> int:
    """Load what the first word names, then answer one prompt or hold a conversation."""
    request = parse(args, words=3)
    if not request.words:
        raise TuneError("try what?", "", "`tune try RUN` or `tune try MODEL`; see `tune ls runs` and `tune ls model`")
    target = _model(request.words[0]) or read_plan((_run_in(request.words[0]) or take_run(request)) / "plan.json")
    prompt = request.words[1] if len(request.words) > 1 else "" if sys.stdin.isatty() else sys.stdin.read().strip()
    if request.json and not prompt:
        raise TuneError(
            "`--json` needs a prompt", "--json", f"`tune try {shlex.quote(request.words[0])} PROMPT --json`, or the prompt on stdin"
        )
    load("tuner.worker_env").quiet()
    head = "causal" if isinstance(target, Model) else target.load_recipe().task.head
    if len(request.words) > 2 and head != "image_text":
        raise TuneError("this verb takes one prompt", request.words[2], "put quotes around it")
    system, limit = _settings(request.overrides) if head in ("causal", "image_text") else (None, 0)
    if not isinstance(target, Model) and head == "image_text":
        seen, settings = load("tuner.serve.seen"), {"system": system, "max_new_tokens": limit}
        question = request.words[2] if len(request.words) > 2 else ""
        seen.ask(target, prompt, question, **settings, as_json=request.json) if prompt else seen.converse(target, **settings)
        return 0
    if not isinstance(target, Model) and head != "causal":
        return _labels(target, request, prompt)
    chat = load("tuner.serve.chat")
    if isinstance(target, Model):
        voices = chat.voices_of_model(target, Hardware())
    else:
        voices, system = chat.voices_of_run(target), system or chat.system_of_run(target)
    if prompt:
        chat.ask(voices, prompt, system=system, max_new_tokens=limit, as_json=request.json)
    else:
        chat.converse(voices, system=system, max_new_tokens=limit)
    return 0


def _labels(run: Plan, request: Request, prompt: str) -> int:
    """Labels of one text, or of several one after the other."""
    task = run.load_recipe().task
    load("tuner.tasks").module_of(run.load_recipe().task)  # which says what is not installed
    labels = load(SERVES.get(task.kind) or SERVES.get(task.head, "tuner.serve.labels"))
    known: tuple[str, ...] = vars(labels).get("SETTINGS", ())
    given = dict(override.split("=", 1) for override in request.overrides)
    if unknown := next((override for override in request.overrides if override.partition("=")[0] not in known), None):
        fix = f"settings: {', '.join(known)}" if known else "leave it out"
        raise TuneError(f"{run.name} writes nothing that could be set" if not known else "unknown setting", unknown, fix)
    if prompt:
        labels.ask(run, prompt, as_json=request.json, **given)
    else:
        labels.converse(run, **given)
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
    """The model that a word names, None when it can only be a run. Raises TuneError (code 2) for a folder that is not there."""
    folder = Path(target).expanduser()
    if (folder / "plan.json").is_file():
        return None
    if target in list_options("model") and (option := find_option("model", target, where="MODEL")):
        if "id" not in option.data:
            fix = "say which: `tune try owner/name` for a model of the Hub, `tune try FOLDER` for your own"
            raise TuneError(f"the option `{target}` names no model", target, fix)
        return from_section(Model, option.data)
    if (folder / "config.json").is_file():
        return Model(id=target)
    if folder.is_dir():
        return None
    if target.startswith((".", "/", "~")) or target.endswith("/") or target.count("/") > 1:
        raise TuneError(f"there is no such folder: {target}", target, "check the path; a model of the Hub is `owner/name`")
    return Model(id=target) if "/" in target else None


def _run_in(target: str) -> Path | None:
    """The newest finished run in a folder of runs (`outputs/small`), None for a word that is no path to a folder without a plan."""
    folder = Path(target).expanduser()
    if "/" not in target or not folder.is_dir() or (folder / "plan.json").is_file():
        return None
    folder = folder.resolve()
    if not any(folder.glob("*/plan.json")):
        fix = "a model's folder has config.json, a run's has plan.json; `tune ls runs` lists the runs"
        raise TuneError(f"there is no model and no run in {target}", target, fix)
    return find_run(folder.name, output_dir=folder.parent)
