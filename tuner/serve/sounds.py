"""`tune try` of a run that hears: `ask(plan, "recording.wav")` prints what is said in it, or what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tuner.context import Run
from tuner.data.audio import wave
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.plan import Plan
from tuner.render import out
from tuner.runs import read_json
from tuner.serve.trained import trained
from tuner.serve.typed import typed
from tuner.tasks import module_of
from tuner.train.sounds import hearing_of
from tuner.train.whisper import transcripts


def _loaded(plan: Plan) -> tuple[Run, Any]:
    """The run and its tuned model. Raises TuneError (code 2) when nothing has been trained yet."""
    run = trained(plan)
    return run, module_of(run.recipe.task).load(run, tuned=run.folder)


@torch.inference_mode()
def answer(run: Run, model: Any, path: str) -> Any:
    """The text of a recording; or its classes, the likeliest first, with probabilities. Raises TuneError (code 2) where it is none."""
    hearing = hearing_of(run)
    try:
        samples = wave(path, hearing.rate)
    except Misfit as misfit:
        raise TuneError(str(misfit), path, "name a recording: a wav or flac file") from misfit
    if run.recipe.task.head == "speech":
        assert hearing.seconds is not None
        size = round(hearing.seconds * hearing.rate)
        parts = [hearing(samples[first : first + size]) for first in range(0, len(samples), size)]
        features, _ = hearing.padded(parts)
        return " ".join(transcripts(run, model, torch.from_numpy(features).to(run.device))).strip()
    features, heard = hearing.padded([hearing(samples)])
    inputs = {hearing.name: torch.from_numpy(features).to(run.device, next(model.parameters()).dtype)}
    inputs |= {"attention_mask": torch.from_numpy(heard).to(run.device)} if hearing.masks else {}
    shares = model(**inputs).logits.float().softmax(-1)[0].tolist()
    names = read_json(Path(run.plan.folder) / "data.json")["labels"]
    found = [{"label": name, "score": round(share, 4)} for name, share in zip(names, shares, strict=True)]
    return sorted(found, key=lambda entry: -float(entry["score"]))


def ask(plan: Plan, text: str, *, as_json: bool = False) -> None:
    """One recording, by its path."""
    found = answer(*_loaded(plan), text)
    print(json.dumps(found, ensure_ascii=False)) if as_json else _show(found)  # noqa: T201 for a program


def converse(plan: Plan) -> None:
    """Recordings one after the other, by their paths."""
    run, model = _loaded(plan)
    for text in typed():
        _show(answer(run, model, text))


def _show(found: Any) -> None:
    if isinstance(found, str):
        out.print(found, markup=False, highlight=False)
        return
    for entry in found[:10]:
        out.print(f"{entry['score']:6.3f}  {entry['label']}", markup=False, highlight=False)
