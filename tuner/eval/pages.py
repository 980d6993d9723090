"""What report.html and compare.html have in common: `template("report.html.jinja").render(…)`, and how rows and logs are read for them.

Every text is escaped by Jinja, a page holds no script and asks for no other file (its content policy forbids both).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jinja2

from tuner.eval.weighed import shorten
from tuner.measures import as_text, duration, figure
from tuner.results import json_lines

PICTURE = "data:image/"  # all that a page may show


def template(name: str) -> jinja2.Template:
    """A page of this folder, which escapes every text that is put into it."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    page = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    page.filters |= {"figure": figure, "duration": duration, "number": "{:,}".format, "percent": "{:.1%}".format, "value": as_text}
    page.filters["shorten"] = shorten
    return page.get_template(name)


def read_log(path: Path) -> list[list[tuple[float, float]]]:
    """(step, loss); the same of held-out loss, learning rate, and reward of sampled answers. A step that was trained again counts once."""
    columns: dict[str, dict[float, float]] = {"loss": {}, "eval_loss": {}, "learning_rate": {}, "reward": {}}
    for line in json_lines(path) if path.is_file() else ():
        for key, points in columns.items():
            if line.get(key) is not None:
                points[line["step"]] = line[key]
    return [sorted(points.items()) for points in columns.values()]


def question_of(row: dict[str, Any]) -> tuple[str, str]:
    """What a held-out row asks last, and its image (empty: it has none)."""
    asked = next((m for m in reversed(row["prompt"]) if m["role"] == "user"), row["prompt"][-1])
    image = str(asked.get("image") or "")
    return shorten(str(asked["content"])), image if image.startswith(PICTURE) else ""


def answer(text: str, reference: str) -> dict[str, Any]:
    """An answer beside its reference: JSON field by field, each `same`, `wrong`, `missing` or `extra`; anything else as plain text."""
    expected, given = parse_object(reference), parse_object(text)
    fields = compare_fields(expected, given) if expected is not None and given is not None else []
    same = all(f["state"] == "same" for f in fields) if fields else text.strip() == reference.strip()
    return {"text": shorten(text), "fields": fields, "same": same, "is_no_json": expected is not None and given is None}


def picture(text: str, reference: str) -> dict[str, Any]:
    """An answer that is an image, as a `data:` address."""
    return {"text": "", "fields": [], "picture": text if text.startswith(PICTURE) else ""}


def compare_fields(expected: dict[str, Any], given: dict[str, Any]) -> list[dict[str, str]]:
    """Every field of both objects, in the reference's order."""
    fields = []
    for name in [*expected, *(n for n in given if n not in expected)]:
        if name not in given:
            state = "missing"
        elif name not in expected:
            state = "extra"
        else:
            state = "same" if given[name] == expected[name] else "wrong"
        value = json.dumps((given if name in given else expected)[name], ensure_ascii=False)
        fields.append({"name": name, "value": shorten(value, most=300), "state": state})
    return fields


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that a text is, else None."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
