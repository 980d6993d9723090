"""`task: transcribe`: speech to text with a Whisper. A row is `{"audio": "clips/1.wav", "text": "good morning"}`."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audio import Features
from tuner.data.audit import audit, gate, segments, statistics
from tuner.data.chat import TokenRow
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.store import IGNORE
from tuner.data.turns import Misfit
from tuner.eval.scores import Formula, Scored
from tuner.eval.speech import errors, jiwer, normalizer
from tuner.eval.speech import formulas as measured
from tuner.model.endings import Ending
from tuner.model.sounds import logits_of, of_texts
from tuner.schema.data import Overlong
from tuner.train import encoders, sounds
from tuner.train.whisper import english, settings, spaced, task_of, tokenizer_of, transcripts

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
END = Ending(head="speech")


def _text(example: Example) -> str:
    text = example.get("text", example.get("label"))
    if not isinstance(text, str) or not text.strip():
        raise Misfit(f"`text` is to be what is said, and is {text!r:.80}")
    return text.strip()


def _coded(run: Run, example: Example) -> TokenRow:
    """A text as tokens: what Whisper begins with is given, the text and its end are learned."""
    tokenizer, limit = tokenizer_of(run), task_of(run).max_length
    prefix = list(tokenizer.prefix_tokens)
    # OpenAI's texts begin with a space, as words do within one.
    said = tokenizer(" " + _text(example), add_special_tokens=False).input_ids
    ids = [*prefix, *said, tokenizer.eos_token_id]
    trained = np.arange(len(ids)) >= len(prefix)
    return TokenRow(ids=np.asarray(ids[:limit], np.int32), trained=trained[:limit], truncated=len(ids) > limit)


def _texts(run: Run, found: Found) -> tuple[Found, list[TokenRow]]:
    """Rows whose text can be learned."""
    fix = "mend or remove this row; `data.columns={text: …}` names the column"
    good, coded = labelled.numbered(found, lambda example: _coded(run, example), run, fix=fix)
    for index, row in enumerate(coded):
        row.index = index
    return good, coded


def _write(run: Run, rows: Rows, folder: Path) -> tuple[Found, list[TokenRow], list[TokenRow]]:
    """Write recordings and texts; returns what was found, all texts, and those that were written."""
    found, coded = _texts(run, sounds.read(run, rows))
    drop, kept = run.recipe.data.overlong is Overlong.drop, list[TokenRow]()

    def heard() -> Iterator[Features]:
        with run.progress("recordings heard", len(coded)) as tick:
            for index, features, _ in sounds.taken(run, found, tick=tick):
                if not (drop and coded[index].truncated):
                    kept.append(coded[index])
                    yield features

    sounds.write(folder, heard(), lambda: kept)
    return found, coded, kept


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Recordings to what the model hears, texts to tokens; audit."""
    found, coded, kept = _write(run, rows, folder)
    tokenizer = tokenizer_of(run)
    audited = audit(kept, tokenizer, end_of_turn=tokenizer.eos_token) | {"rows_dropped": len(coded) - len(kept), "first": found.places[0]}
    gate(audited, max_length=task_of(run).max_length)
    ends, features = np.load(folder / "feature_ends.npy").tolist(), np.load(folder / "features.npy", mmap_mode="r")
    hours = ends[-1] / 360_000
    train = statistics(kept, beside=(features[first:last].tobytes() for first, last in pairwise([0, *ends])))
    encoders.noted(run, found, audited, train, folder, hours=round(hours, 3))


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One text as the model sees it."""
    found, (row,) = _texts(run, sounds.read(run, rows[index : index + 1]))
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    parts = [{"text": f"{found.examples[0]['audio']!s:.120} → ", "trained": False}, *segments(row, tokenizer_of(run))]
    return {"place": rows.place(index), "source": "", **counts, "segments": parts}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are recordings with texts, and something is there to measure them with."""
    if run.recipe.eval.generate:
        jiwer()
    found, _ = _texts(run, sounds.read(run, rows[: run.recipe.eval.limit]))
    next(sounds.taken(run, found))


def possible(run: Run) -> None:
    """The adapter fits the model, and its language is said."""
    tokenizer_of(run)
    encoders.possible(run, END)


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result over a fresh base."""
    model = encoders.load(run, END, trainable=trainable, tuned=tuned)
    for name, parameter in model.named_parameters():
        if name.endswith("encoder.embed_positions.weight"):  # sines, which Whisper's own training leaves as they are
            parameter.requires_grad_(False)
    whisper: Any = model
    if isinstance(model, PeftModel):
        whisper = model.get_base_model()
    whisper.generation_config, whisper.config.forced_decoder_ids = copy.deepcopy(settings(run)), None
    return model


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def learned(lengths: Any) -> Any:
        return of_texts(sounds.hearing_of(run), lengths=lengths)

    return sounds.trainer(run, model, args, prepared, callbacks, objective=learned, measured=_write)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    return sounds.probe(run, model, of_texts(sounds.hearing_of(run)))


@torch.no_grad()
def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and transcript of every held-out row, a batch at a time."""
    found, coded = _texts(run, sounds.read(run, rows[: run.recipe.eval.limit]))
    wanted, scored, waiting = of_texts(sounds.hearing_of(run)), list[Scored](), list[tuple[int, Features]]()
    alike = normalizer(task_of(run).normalizer, english=english(run), spellings=tokenizer_of(run).english_spelling_normalizer)

    def flush() -> None:
        rows = [coded[index] for index, _ in waiting]
        labels = [np.where(row.trained, row.ids, IGNORE).tolist() for row in rows]
        items = zip(waiting, rows, labels, strict=True)
        batch = sounds.on(
            run, wanted.collate([{"rows": [{"features": f, "input_ids": r.ids.tolist(), "labels": y}]} for (_, f), r, y in items])
        )
        losses = cross_entropy(logits_of(model, batch).transpose(1, 2), batch["labels"], ignore_index=IGNORE, reduction="none").sum(1)
        said = transcripts(run, model, batch["input_features"]) if run.recipe.eval.generate else [""] * len(rows)
        for (index, _), row, loss, answer in zip(waiting, rows, losses.tolist(), said, strict=True):
            reference = _text(found.examples[index])
            one = Scored(prompt=[{"role": "user", "content": found.places[index]}], reference=reference, answer=answer)
            one.loss_sum, one.tokens = loss, row.supervised
            if run.recipe.eval.generate:
                one.counts = errors(alike(reference), alike(answer), spaced=spaced(run))
            scored.append(one)
        waiting.clear()

    with run.progress("held-out rows", len(coded)) as tick:
        for index, features, _ in sounds.taken(run, found, tick=tick):
            waiting.append((index, features))
            if len(waiting) == run.recipe.eval.batch_size:
                flush()
        if waiting:
            flush()
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss; word and character error rate, of unspaced writing that of characters alone."""
    return measured(spaced=spaced(run), generated=run.recipe.eval.generate)


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights, tokenizer, feature extractor, generation settings."""
    encoders.save(run, model, folder, tokenizer_of(run))
    sounds.hearing_of(run).extractor.save_pretrained(str(folder))
    settings(run).save_pretrained(str(folder))
