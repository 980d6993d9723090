"""`tune try` of a run that finds objects: `ask(plan, "photo.jpg")` prints them, and writes the image with their boxes on it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tuner.data.images import opened
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.plan import Plan
from tuner.render import out
from tuner.serve.pictures import pipeline_of
from tuner.serve.typed import typed

SETTINGS = ("threshold",)  # the score from which on a box is said
THRESHOLD = "0.5"
COLOURS = ("#ffb000", "#00c2ff", "#ff5ea8", "#5ee05e", "#b98cff")


def answer(model: Any, path: str, *, threshold: float, folder: Path) -> dict[str, Any]:
    """`{"objects": [{"label", "score", "box"}, …], "image": a PNG file}`. Raises TuneError (code 2) for what is no image."""
    try:
        image = opened({"image": path})
    except Misfit as misfit:
        raise TuneError(str(misfit), path, "give the path of an image file") from misfit
    found = sorted(model(image, threshold=threshold), key=lambda one: -one["score"])
    objects = [{"label": one["label"], "score": round(float(one["score"]), 4), "box": one["box"]} for one in found]
    folder.mkdir(exist_ok=True)
    written = folder / f"{Path(path).stem}-boxes.png"
    drawn(image, objects).save(written)
    return {"objects": objects, "image": str(written)}


def drawn(image: Image.Image, objects: list[dict[str, Any]]) -> Image.Image:
    """The image with boxes on it, each under its label and score."""
    made = image.copy()
    pen, names = ImageDraw.Draw(made), sorted({one["label"] for one in objects})
    line = max(1, round(max(image.size) / 300))
    for one in reversed(objects):  # the surest on top
        colour, box = COLOURS[names.index(one["label"]) % len(COLOURS)], one["box"]
        corners = (box["xmin"], box["ymin"], max(box["xmin"], box["xmax"]), max(box["ymin"], box["ymax"]))
        pen.rectangle(corners, outline=colour, width=line)
        place, text = (box["xmin"] + line + 1, box["ymin"] + line), f"{one['label']} {one['score']:.2f}"
        pen.rectangle(pen.textbbox(place, text), fill=colour)
        pen.text(place, text, fill="black")
    return made


def _threshold(value: str) -> float:
    """Raises TuneError (code 2) for what is no score."""
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not 0 <= number <= 1:
        raise TuneError("`threshold` is a score between 0 and 1", f"threshold={value}", "as 0.3")
    return number


def ask(plan: Plan, path: str, *, threshold: str = THRESHOLD, as_json: bool = False) -> None:
    """One image, what is on it."""
    least = _threshold(threshold)
    found = answer(pipeline_of(plan), path, threshold=least, folder=Path(plan.folder) / "tried")
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan, *, threshold: str = THRESHOLD) -> None:
    """Images one after the other."""
    least, model = _threshold(threshold), pipeline_of(plan)
    for path in typed("the path of an image"):
        show(answer(model, path, threshold=least, folder=Path(plan.folder) / "tried"))


def show(found: dict[str, Any]) -> None:
    """A line for each object, and where the image is."""
    for one in found["objects"] or [{}]:
        box = one.get("box", {})
        said = (
            f"{one['score']:6.3f}  {one['label']}  {box['xmin']}, {box['ymin']} to {box['xmax']}, {box['ymax']}" if one else "(no object)"
        )
        out.print(said, markup=False, highlight=False)
    out.print(found["image"], markup=False, highlight=False, soft_wrap=True)
