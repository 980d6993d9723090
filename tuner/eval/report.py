"""report.html of a run, one file that needs nothing else: `write_report(Path("outputs/quickstart/0123456789ab"))`.

Every text is escaped by Jinja, the page holds no script and asks for no other file (its content policy forbids both).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tuner.data.audit import taught
from tuner.data.labels import colour
from tuner.eval import svg
from tuner.eval.drawn import drawn
from tuner.eval.pages import answer, picture, question_of, read_log, template
from tuner.eval.weighed import weighed
from tuner.measures import as_text
from tuner.results import Results, json_lines, read_results
from tuner.runs import read_json, write_text
from tuner.schema.preferences import Paired
from tuner.schema.task import Encoder

MOST_SAMPLE_CHARACTERS = 6000
STAGE_NAMES = {
    "prepare": "Prepare the rows",
    "baseline": "Measure the base model",
    "train": "Train",
    "evaluate": "Measure the tuned model",
    "publish": "Publish",
}


def write_report(folder: Path) -> Path:
    """Write the folder's report.html from whatever its stages have left there; sections without data are left out.

    Raises TuneError (code 4) when a file is damaged or the page cannot be written.
    """
    run = read_results(folder)
    look = looked(folder)
    train, validation, rates, rewards = read_log(folder / "train_log.jsonl")
    context = {
        "run": run,
        "train": train,
        "validation": validation,
        "loss_chart": svg.loss_chart(train, validation, rates),
        "rewards": rewards,
        "reward_chart": svg.loss_chart(rewards, [], [], title="Reward of sampled answers over training steps"),
        "look": look,
        "rate_chart": svg.rate_chart([tuple(p.values()) for p in look.get("curve", ())], look.get("suggestion")),
        "noise_chart": svg.noise_chart(look.get("course", ()), look.get("noise_scale")),
        "dumbbell": svg.dumbbell,
        "examples": examples(run),
        "tally": tally(run),
        "sample": sample(run.audit),
        "labels": taught(run.audit).partition(": ")[2] if "labels" in run.audit else "",
        "colours": [(name, f"rgb{colour(number)}") for number, name in enumerate(run.data.get("labels", ()))],
        "histogram": svg.histogram(bars(run.data)),
        "resolved": yaml.safe_dump(nested(run.public_values()), sort_keys=False, allow_unicode=True),
        "environment": list(environment(run.environment)),
        "stage_names": STAGE_NAMES,
    }
    path = folder / "report.html"
    write_text(path, template("report.html.jinja").render(context))
    return path


def bars(data: dict[str, Any]) -> list[tuple[int, int]]:
    """Rows by their length; none of images, which have none."""
    train = data.get("train", {})
    return [] if train.get("pixels") else [(bound, count) for bound, count in train.get("histogram", [])]


def looked(folder: Path) -> dict[str, Any]:
    """What `debug=lr`, `noise` or `profile` found, if the run was such a look."""
    paths = (folder / name for name in ("lr_finder.json", "noise.json", "profile/summary.json"))
    return dict(pair for path in paths if path.is_file() for pair in read_json(path).items())


def examples(run: Results) -> list[dict[str, Any]]:
    """Held-out rows for show, evenly spaced over the set so that nobody chose them: the question and three answers to it."""
    path = run.eval_rows
    answered = (run.recipe.eval.generate and run.recipe.task.chats) or isinstance(run.recipe.task, Encoder | Paired)
    if path is None or not (answered and run.recipe.eval.examples):
        return []
    read = picture if run.recipe.task.head == "segment" else answer
    rows, found = sum(1 for _ in json_lines(path)), list[dict[str, Any]]()
    shown = min(run.recipe.eval.examples, rows)
    wanted = {i * rows // shown for i in range(shown)}
    for index, row in enumerate(json_lines(path)):
        if index in wanted:
            question, image = question_of(row)
            answers = {who: read(row[who], row["reference"]) for who in ("reference", "base", "tuned") if row.get(who) is not None}
            rewards = {who: s["reward"] for who in ("base", "tuned") if "reward" in (s := row.get(f"{who}_scores") or {})}
            one = {"question": question, "image": image, "answers": answers, "rewards": rewards, "drawn": drawn(row, image)}
            found.append(one | {"weighed": weighed(row)})
    return found


def tally(run: Results) -> dict[str, int]:
    """Over all held-out rows: how many answers training put right, spoiled, or left right or wrong."""
    names = {
        (False, True): "put right",
        (True, True): "right before and after",
        (False, False): "wrong before and after",
        (True, False): "spoiled",
    }
    counts = dict.fromkeys(names.values(), 0)
    for row in json_lines(run.eval_rows) if run.eval_rows else ():
        if key := next((key for key in ("exact_match", "accuracy", "preference_accuracy") if key in row["base_scores"]), None):
            counts[names[row["base_scores"][key] == 1, row["tuned_scores"][key] == 1]] += 1
    return {name: count for name, count in counts.items() if count or name == "spoiled"} if any(counts.values()) else {}


def sample(audit: dict[str, Any]) -> list[dict[str, Any]]:
    """The audited row's spans, neighbours of one kind joined, up to a length that can be read."""
    spans: list[dict[str, Any]] = []
    room = MOST_SAMPLE_CHARACTERS
    for span in audit.get("sample") or []:
        text = span["text"][:room]
        room -= len(text)
        if spans and spans[-1]["trained"] == span["trained"]:
            spans[-1]["text"] += text
        else:
            spans.append({"text": text, "trained": span["trained"]})
        if room <= 0:
            return [*spans, {"text": " … (the rest is left out)", "trained": False}]
    return spans


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Dotted keys as nested mappings: what a recipe file looks like."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *parents, leaf = key.split(".")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


def environment(lock: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """lock.json as lines of a table: `("torch", "2.13.0")`, `("device name", "…")`."""
    for key, value in lock.items():
        name = f"{prefix} {key}".strip()
        if isinstance(value, dict):
            yield from environment(value, "" if key == "versions" else name)
        elif value is not None:
            yield name, as_text(value)
