"""compare.html, one file that needs nothing else: `write_page(folders, contrast(folders), Path("outputs/compare.html"))`."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tuner.eval import svg
from tuner.eval.contrast import Side, sides
from tuner.eval.pages import answer, picture, question_of, read_log, template
from tuner.measures import HEADLINES, Metric, lower_is_better
from tuner.results import json_lines
from tuner.runs import write_text

MOST_ROWS = 6
PARTS = {"seconds": "Time", "steps": "Steps", "tokens": "Tokens", "tokens_per_s": "Tokens a second", "trainable": "Trainable parameters"}
Joined = list[dict[str, Any]]  # one held-out row, as each run's rows.jsonl has it


def write_page(folders: Sequence[Path], found: dict[str, Any], path: Path) -> None:
    """Write the page of what `contrast` found of the runs. Raises TuneError (code 4) when it cannot be written."""
    compared = sides(folders)
    paired = [side for side, run in zip(compared, found["runs"], strict=True) if run["same_rows"]]
    curves = [read_log(side.results.folder / "train_log.jsonl")[:2] for side in compared]
    judged = _judged_by(paired)
    context = {
        "found": found,
        "labels": [side.label for side in compared],
        "metrics": [(_metric(found, name), metric) for name, metric in found["metrics"].items()],
        "headline": next((_metric(found, h) for h in HEADLINES if None not in found["metrics"].get(h, {"tuned": [None]})["tuned"]), None),
        "parts": [(title, key) for key, title in PARTS.items() if any(run["training"].get(key) for run in found["runs"])],
        "curves": curves,
        "chart": svg.runs_chart([(train, validation) for train, validation in curves]),
        "dumbbell": svg.dumbbell,
        "colours": svg.COLOURS,
        "judged": Metric(key=judged, base=None, tuned=None) if judged else None,
        "tallies": _tallies(paired, judged),
        "rows": [_shown(row, paired, judged) for row in most_different(paired, judged)],
    }
    write_text(path, template("compare.html.jinja").render(context))


def _metric(found: dict[str, Any], name: str) -> Metric:
    """A metric by its name, with values that say whether it lies between 0 and 1."""
    metric = found["metrics"][name]
    highest = max((value for value in [*metric["base"], *metric["tuned"]] if value is not None), default=None)
    return Metric(key=name, base=highest, tuned=highest)


def _judged_by(paired: Sequence[Side]) -> str:
    """The score by which a row's answers are compared: the first headline that every row of all has, else any such score, else none."""
    shared = set.intersection(*(set(row["scores"]) for side in paired for row in side.rows))
    return next((name for name in (*HEADLINES, *sorted(shared)) if name in shared), "")


def _tallies(paired: Sequence[Side], judged: str) -> list[tuple[str, int, int, int]]:
    """(run, rows in which it is better than the first, worse, the same), of each other run."""
    if not judged:
        return []
    sign = -1 if lower_is_better(judged) else 1
    found = []
    for side in paired[1:]:
        gains = [sign * (b["scores"][judged] - a["scores"][judged]) for a, b in zip(paired[0].rows, side.rows, strict=True)]
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        found.append((side.label, better, worse, len(gains) - better - worse))
    return found


def most_different(paired: Sequence[Side], judged: str) -> list[Joined]:
    """Held-out rows whose answers are furthest apart: by what they are judged by, then by all their scores, then by how many there are."""

    def apart(row: Joined) -> tuple[float, float, int]:
        scores = [one["tuned_scores"] for one in row]
        shared = [name for name in scores[0] if all(name in one for one in scores)]
        spread = {name: max(one[name] for one in scores) - min(one[name] for one in scores) for name in shared}
        return spread.get(judged, 0.0), sum(spread.values()), len({one["tuned"] for one in row})

    return heapq.nlargest(MOST_ROWS, _joined(paired), key=apart) if len(paired) > 1 else []


def _joined(paired: Sequence[Side]) -> Iterator[Joined]:
    """Rows to which the runs wrote answers that are not all the same."""
    files = [json_lines(side.results.eval_rows) for side in paired if side.results.eval_rows]
    for row in zip(*files, strict=True):
        if all(one["tuned"] for one in row) and len({one["tuned"] for one in row}) > 1:
            yield [*row]


def _shown(row: Joined, paired: Sequence[Side], judged: str) -> dict[str, Any]:
    """A row for the page: `question`, `image`, and what the reference and each run say to it, with its score and whether none is better."""
    question, image = question_of(row[0])
    reference = row[0]["reference"]
    read = picture if paired[0].results.recipe.task.head == "segment" else answer
    values = [one["tuned_scores"].get(judged) for one in row]
    known = [value for value in values if value is not None]
    best = (min(known) if lower_is_better(judged) else max(known)) if known else None
    answers = [
        {"run": side.label, "given": read(one["tuned"], reference), "score": value, "best": value == best}
        for side, one, value in zip(paired, row, values, strict=True)
    ]
    return {"question": question, "image": image, "reference": read(reference, reference), "answers": answers}
