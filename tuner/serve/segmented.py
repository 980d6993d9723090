"""`tune try` of a run that labels pixels: `ask(plan, "photo.jpg")` writes what base and tuned see in it as PNG files, and prints where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tuner.data.images import opened
from tuner.data.legend import Legend, coloured
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.model.segments import enlarged, logits_of
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.serve.trained import both, trained
from tuner.serve.typed import typed
from tuner.tasks import module_of
from tuner.train.segments import processor_of

OPAQUE = 0.55  # how much of the photo its classes cover
MOST_SHOWN = 10  # classes of one image


class Segmenter:
    """Base and tuned of a run."""

    def __init__(self, plan: Plan) -> None:
        """Raises TuneError (code 2) when nothing has been trained yet."""
        self.run = trained(plan)
        self.names = read_json(self.run.folder / "data.json")["labels"]
        self.run.kept["legend"] = Legend(names=tuple(self.names), numbers=(), ignored=())  # no row is read for the names
        self.models = both(self.run, module_of(self.run.recipe.task))

    def classes(self, model: Any, image: Image.Image) -> NDArray[np.uint8]:
        """The class of every pixel of an image, in its own size [height, width]."""
        pixels = processor_of(self.run)(image, return_tensors="pt")["pixel_values"].to(self.run.device)
        with torch.no_grad():
            logits = enlarged(logits_of(model, {"pixel_values": pixels}), image.size[::-1])
        return logits[0].argmax(0).to(torch.uint8).cpu().numpy()

    def look(self, path: str) -> dict[str, Any]:
        """Files of an image, in the run's folder: `tried/photo-base.png`, `…-tuned.png` (classes over the photo), `…-mask.png` (the tuned
        model's classes as numbers), and the share of each class in the last. Raises TuneError (code 2) for what is no image.
        """
        try:
            image = opened({"image": path})
        except Misfit as misfit:
            raise TuneError(str(misfit), path, "give the path of an image file") from misfit
        folder, found = self.run.folder / "tried", dict[str, Any]()
        folder.mkdir(exist_ok=True)
        for who, model in self.models.items():
            said = self.classes(model, image)
            found[who] = str(folder / f"{Path(path).stem}-{who}.png")
            Image.blend(image, coloured(said).convert("RGB"), OPAQUE).save(found[who])
        found["mask"] = str(folder / f"{Path(path).stem}-mask.png")
        coloured(said).save(found["mask"])
        counts = np.bincount(said.ravel(), minlength=len(self.names))
        found["shares"] = {self.names[n]: round(float(counts[n] / said.size), 4) for n in np.argsort(-counts, kind="stable") if counts[n]}
        return found


def ask(plan: Plan, path: str, *, as_json: bool = False) -> None:
    """One image, its masks."""
    found = Segmenter(plan).look(path)
    print(json.dumps(found, ensure_ascii=False)) if as_json else show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Images one after the other."""
    segmenter = Segmenter(plan)
    for path in typed("the path of an image"):
        show(segmenter.look(path))


def show(found: dict[str, Any]) -> None:
    """What the tuned model sees, and where the files are."""
    for name, share in list(found["shares"].items())[:MOST_SHOWN]:
        out.print(f"{share:6.1%}  {name}", markup=False, highlight=False)
    for who in ("base", "tuned", "mask"):
        out.print(f"{who:<6} {found[who]}", markup=False, highlight=False, soft_wrap=True)
