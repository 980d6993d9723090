"""What tasks of recordings share, as functions: reading them as the model hears them, a trainer, a probe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audio import Features, Hearing, SoundRows, wave, write_sounds
from tuner.data.chat import TokenRow
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import write_rows
from tuner.data.turns import Misfit
from tuner.errors import Problem, TuneError
from tuner.model.adapt import measuring
from tuner.model.objectives import Objective
from tuner.model.processors import load_extractor
from tuner.schema.data import OnError, RowShape
from tuner.train import encoders

PROBED = 4  # rows whose loss is compared before saving and after loading
Taken = tuple[int, Features, bool]  # a row's number, what is heard of it, and whether it was cut


def read(run: Run, rows: Rows) -> Found:
    """Rows of recordings with a text or a label. Raises TuneError (code 2) when they are something else."""
    return labelled.read(run, rows, ("labelled",), shape=RowShape.audio)


def hearing_of(run: Run) -> Hearing:
    """The model's feature extractor."""
    hearing: Hearing = run.keep("hearing", lambda: Hearing(load_extractor(run.recipe.model, progress=run.tell)))
    return hearing


def taken(run: Run, found: Found, *, cut_s: float | None = None, tick: Callable[[int], None] = lambda done: None) -> Iterator[Taken]:
    """What is heard of each recording, cut at `cut_s` seconds. One that cannot be read raises TuneError (code 2), or is skipped and noted;
    so is one that is longer than the model hears, where it is not to be cut."""
    hearing, some = hearing_of(run), False
    for index, (example, place) in enumerate(zip(found.examples, found.places, strict=True)):
        try:
            samples = wave(example["audio"], hearing.rate, beside=Path(place).expanduser().absolute().parent)
            seconds = len(samples) / hearing.rate
            if cut_s is None and hearing.seconds and seconds > hearing.seconds:
                raise Misfit(f"the recording is {seconds:.1f} s long, and the model hears {hearing.seconds:.0f} s at once")
            whole = len(samples) if cut_s is None else round(cut_s * hearing.rate)
            yield index, hearing(samples[:whole]), len(samples) > whole
            some = True
        except Misfit as misfit:
            fix = "cut, mend or remove it, or skip such rows with `data.on_error=skip`"
            found.misfits.append(Problem(what=str(misfit), where=place, fix=fix))
            if run.recipe.data.on_error is OnError.stop:
                raise TuneError(problems=found.misfits[-1:]) from misfit
        tick(index + 1)
    if not some:
        raise TuneError(problems=found.misfits[:10])


def seconds_of(features: Features, hearing: Hearing) -> float:
    """How long what is heard lasts."""
    return len(features) / (hearing.rate if features.shape[1] == 1 else 100)  # spectrograms have a step each 10 ms


def write(
    folder: Path, sounds: Iterator[Features], rows: Callable[[], list[TokenRow]], classes: Callable[[], list[int]] | None = None
) -> None:
    """Write prepared recordings with their texts, or with their classes; `rows` and `classes` are asked for once all are heard."""
    write_sounds(folder, sounds)
    write_rows(folder, rows())
    if classes:
        np.save(folder / "classes.npy", np.asarray(classes(), np.int64))


def trainer(
    run: Run,
    model: nn.Module,
    args: TrainingArguments,
    prepared: Path,
    callbacks: list[TrainerCallback],
    *,
    objective: Callable[[Any], Objective],
    measured: Callable[[Run, Rows, Path], Any],
) -> Trainer:
    """A trainer over prepared recordings; `measured` writes the held-out ones into a folder."""

    def written(folder: Path) -> SoundRows:
        if run.leads:
            measured(run, held_out(run), folder)
        return SoundRows(folder)

    extractor = hearing_of(run).extractor
    rows = SoundRows(prepared)
    return encoders.trainer(run, model, args, callbacks, rows=rows, objective=objective, written=written, processor=extractor)


@torch.no_grad()
def probe(run: Run, model: nn.Module, wanted: Objective) -> float:
    """Mean loss of the first prepared rows."""
    rows = SoundRows(run.stage_folder("prepare"))
    batch = on(run, wanted.collate([rows[index] for index in range(min(PROBED, len(rows)))]))
    return float(wanted.loss(measuring(model), batch, 0.0) / wanted.count(batch).clamp(min=1))


def on(run: Run, batch: dict[str, Any]) -> dict[str, Any]:
    """A batch on the run's device."""
    return {name: value.to(run.device) for name, value in batch.items() if name != "filler"}
