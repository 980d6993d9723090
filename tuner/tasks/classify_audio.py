"""`task: classify_audio`: a class for a recording. A row is `{"audio": "clips/1.wav", "label": "bark"}`, or a file in its folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audio import Features
from tuner.data.audit import statistics
from tuner.data.chat import TokenRow
from tuner.data.classes import labels_in
from tuner.data.labelled import Found
from tuner.data.labels import Labels
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.turns import Misfit
from tuner.errors import GATE, TuneError
from tuner.eval import calibration
from tuner.eval.labels import counted, macro_f1
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.model.endings import Ending
from tuner.model.sounds import logits_of, of_classes
from tuner.schema.audio import ClassifyAudio
from tuner.train import encoders, sounds

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
STEPS = 50  # a second, as wav2vec2 and Whisper have: what a recording counts as in tokens


def _task(run: Run) -> ClassifyAudio:
    assert isinstance(run.recipe.task, ClassifyAudio)
    return run.recipe.task


def labels_of(run: Run) -> Labels:
    """The recipe's labels, else those of the training rows."""
    return labels_in(run, lambda rows: sounds.read(run, rows), lambda example: [_label(example)])


def _label(example: Example) -> Any:
    if "label" not in example:
        raise Misfit("there is no `label`: `data.columns={label: …}` names the column")
    return example["label"]


def _end(run: Run) -> Ending:
    return Ending(head="audio", labels=labels_of(run).names, problem=None)


def _numbered(run: Run, rows: Rows) -> tuple[Found, list[int]]:
    labels = labels_of(run)
    return labelled.numbered(sounds.read(run, rows), lambda example: labels.number(_label(example)), run)


def _write(run: Run, rows: Rows, folder: Path) -> tuple[Found, list[TokenRow], list[int]]:
    """Write recordings and classes; returns what was found, a row each (as many tokens as it has steps), and its class."""
    found, numbers = _numbered(run, rows)
    kept, classes, hearing = list[TokenRow](), list[int](), sounds.hearing_of(run)

    def heard() -> Iterator[Features]:
        with run.progress("recordings heard", len(numbers)) as tick:
            for index, features, cut in sounds.taken(run, found, cut_s=_task(run).max_seconds, tick=tick):
                ids = np.zeros(max(1, round(sounds.seconds_of(features, hearing) * STEPS)), np.int32)
                ids[0] = crc32(features.tobytes()) >> 1  # so that the same recording is known again
                kept.append(TokenRow(ids=ids, trained=np.ones(len(ids), np.bool_), truncated=cut, index=index))
                classes.append(numbers[index])
                yield features

    sounds.write(folder, heard(), lambda: kept, lambda: classes)
    return found, kept, classes


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Recordings to what the model hears, labels to numbers; audit."""
    found, kept, classes = _write(run, rows, folder)
    names = labels_of(run).names
    counts = Counter(names[number] for number in classes)
    sample = [{"text": f"{found.examples[0]['audio']!s:.120} → ", "trained": False}, {"text": names[classes[0]], "trained": True}]
    audited = labelled.audit([], found, counts, sample, "recording") | {
        "rows": len(kept),
        "tokens": sum(len(row.ids) for row in kept),
        "supervised_tokens": len(kept),
        "rows_truncated": sum(row.truncated for row in kept),
        "rows_dropped": 0,
    }
    if len(counts) == 1:
        what, fix = f"every recording has the label `{next(iter(counts))}`: there is nothing to tell apart", "look at `data.columns`"
        raise TuneError(what, "label audit", fix, code=GATE)
    encoders.noted(run, found, audited, statistics(kept), folder, labels=list(names))


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One recording, and its label."""
    found, (number,) = _numbered(run, rows[index : index + 1])
    _, features, cut = next(sounds.taken(run, found, cut_s=_task(run).max_seconds))
    parts = [{"text": f"{found.examples[0]['audio']!s:.120} → ", "trained": False}, {"text": labels_of(run).names[number], "trained": True}]
    counts = {"tokens": round(sounds.seconds_of(features, sounds.hearing_of(run)) * STEPS), "supervised_tokens": None, "truncated": cut}
    return {"place": rows.place(index), "source": "", **counts, "segments": parts}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are recordings, and have labels that the training rows have."""
    found, _ = _numbered(run, rows[: run.recipe.eval.limit])
    next(sounds.taken(run, found, cut_s=_task(run).max_seconds))


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, _end(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _end(run), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def learned(lengths: Any) -> Any:
        return of_classes(sounds.hearing_of(run), lengths=lengths)

    return sounds.trainer(run, model, args, prepared, callbacks, objective=learned, measured=_write)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    return sounds.probe(run, model, of_classes(sounds.hearing_of(run)))


@torch.no_grad()
def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted label of every held-out recording, one at a time where models hear what is filled up."""
    found, numbers = _numbered(run, rows[: run.recipe.eval.limit])
    wanted, names, scored = of_classes(sounds.hearing_of(run)), labels_of(run).names, list[Scored]()
    with run.progress("held-out rows", len(numbers)) as tick:
        for index, features, _ in sounds.taken(run, found, cut_s=_task(run).max_seconds, tick=tick):
            item = {"features": features, "input_ids": [0], "labels": numbers[index]}
            batch = sounds.on(run, wanted.collate([{"rows": [item]}]))
            logits = logits_of(model, batch)
            said, true = names[int(logits[0].argmax())], names[numbers[index]]
            one = Scored(prompt=[{"role": "user", "content": found.places[index]}], reference=true, answer=said)
            one.loss_sum, one.tokens = float(cross_entropy(logits, batch["labels"])), 1
            one.scores = {"accuracy": float(said == true)}
            one.counts = calibration.confident(logits[0].float().cpu().numpy(), right=said == true)
            for name in {said, true}:
                one.counts |= counted({name} & {said}, {name} & {true}, f"/{name}")
            scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss, F1 of the classes, and how well calibrated they are."""
    return {"loss": mean_loss, "f1_macro": macro_f1(labels_of(run).names), calibration.NAME: calibration.error}


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights and feature extractor."""
    encoders.save(run, model, folder, sounds.hearing_of(run).extractor)
