"""`task: vlm`: conversations about images. A row is `{"image": "a.jpg", "question": …, "answer": …}`, or messages with images."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import images as pictures
from tuner.data import labelled
from tuner.data.audit import audit, gate, segments, statistics
from tuner.data.chat import answer_of, end_of_turn
from tuner.data.labelled import Found
from tuner.data.layout import shared_system
from tuner.data.load import Rows
from tuner.data.seeing import Seeing
from tuner.data.seen import Album, SeenRow, told, write_seen
from tuner.data.shapes import Example
from tuner.data.shown import SeenRows
from tuner.data.splits import held_out
from tuner.data.turns import is_silent
from tuner.errors import GATE, TuneError
from tuner.eval import texts as of_texts
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.model.adapt import measuring
from tuner.model.endings import Ending
from tuner.model.generation import settings
from tuner.model.processors import load_processor
from tuner.model.seen import answers, of_seen, row_losses
from tuner.schema.data import Overlong
from tuner.schema.vision import Vlm
from tuner.train import encoders

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # rows whose loss is compared before saving and after loading
FIX = "mend or remove this row, or skip such rows with `data.on_error=skip`"


def _task(run: Run) -> Vlm:
    assert isinstance(run.recipe.task, Vlm)
    return run.recipe.task


def seeing_of(run: Run) -> Seeing:
    """The model's processor at work."""
    seeing: Seeing = run.keep("seeing", lambda: Seeing(load_processor(run.recipe.model, progress=run.tell), _task(run)))
    return seeing


def _rows(run: Run, rows: Rows, album: Album, *, tick: Any = lambda done: None) -> tuple[Found, list[SeenRow]]:
    """Rows as token rows whose images are in the album. Raises TuneError (code 2) for one that does not fit, or skips it."""
    read, seeing = labelled.read(run, rows, ("conversation",)), seeing_of(run)
    for example, place in zip(read.examples, read.places, strict=True):
        example["beside"] = Path(place).expanduser().absolute().parent

    def number(example: Example) -> tuple[str, Any, bool, int]:
        before = len(album)
        try:
            example["messages"], values = told(example)
            seen = [album.add(value, example["beside"]) for value in values]
            text, arrays, cut = seeing.coded(example, seen)
        except Exception:
            album.forget(before)
            raise
        tick(len(album))
        return text, arrays, cut, before

    found, coded = labelled.numbered(read, number, run, fix=FIX)
    files, ends = album.reader(), [*(first for *_, first in coded[1:]), len(album)]
    return found, [
        SeenRow(ids=a[0], trained=a[1], truncated=cut, index=i, text=text, first=first, images=partial(files, first, ends[i] - first))
        for i, (text, a, cut, first) in enumerate(coded)
    ]


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Render, put images in, tokenize and mask; audit; write what can teach, with the images' files."""
    seeing, tokenizer = seeing_of(run), seeing_of(run).processor.tokenizer
    with Album(_task(run).max_pixels, folder) as album, run.progress("images prepared", len(rows)) as tick:
        found, every = _rows(run, rows, album, tick=tick)
        whole = [row for row in every if not row.truncated] if run.recipe.data.overlong is Overlong.drop else every
        audited = audit(list(whole), tokenizer, end_of_turn=end_of_turn(tokenizer))
        audited |= {"sample": seeing.shortened(audited["sample"]), "rows_dropped": len(every) - len(whole), "first": found.places[0]}
        audited |= {"conversations": len(every), "rows_without_answer": sum(map(is_silent, found.examples)), "images": len(album)}
        gate(audited, max_length=_task(run).max_length)
        kept = [row for row in whole if row.supervised]
        write_seen(folder, kept, album)
    train = statistics(list(kept), beside=(b"".join(row.images()) for row in kept))
    encoders.noted(run, found, audited, train, folder, system=shared_system(found.examples))


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it, each image as one mark and the number of its tokens."""
    with Album(_task(run).max_pixels) as album:
        _, (row,) = _rows(run, rows[index : index + 1], album)
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    shown = seeing_of(run).shortened(segments(row, seeing_of(run).processor.tokenizer))
    return {"place": rows.place(index), "source": "", **counts, "segments": shown}


def _held_out(run: Run, rows: Rows, album: Album) -> tuple[list[Example], list[SeenRow]]:
    """Held-out conversations that end with an answer. Raises TuneError where there is none, or nothing of any would be measured."""
    found, every = _rows(run, rows, album)
    pairs = [(e, row) for e, row in zip(found.examples, every, strict=True) if e["messages"][-1]["role"] == "assistant"]
    if not pairs:
        raise TuneError("no held-out conversation ends with an assistant message", "data.eval_path", "the last message is what is measured")
    if not any(row.trained[1:].any() for _, row in pairs):
        what = f"no token of {len(pairs)} held-out rows would be measured: all of them are cut before the answer"
        raise TuneError(what, "task.max_length", f"raise it (now {_task(run).max_length} tokens) or shorten the rows", code=GATE)
    return [e for e, _ in pairs], [row for _, row in pairs]


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, with images that can be read; what measures answers is there."""
    of_texts.ready(run.recipe.eval)
    with Album(_task(run).max_pixels) as album:
        _held_out(run, rows[: run.recipe.eval.limit], album)


def _ending(run: Run) -> Ending:
    return Ending(head="image_text", language=not _task(run).train_vision)


def possible(run: Run) -> None:
    """The model sees and writes, and the adapter fits it: no weights are read."""
    seeing_of(run)
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    rows = SeenRows(prepared)

    def written(folder: Path) -> SeenRows:
        if run.leads:
            with Album(_task(run).max_pixels, folder) as album:
                write_seen(folder, _held_out(run, held_out(run), album)[1], album)
        return SeenRows(folder)

    learned = partial(of_seen, seeing_of(run), rows[0]["rows"][0])
    options: dict[str, Any] = {"processor": seeing_of(run).processor}
    return encoders.trainer(run, model, args, callbacks, rows=rows, objective=learned, written=written, **options)


@torch.no_grad()
def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared rows."""
    rows = SeenRows(run.stage_folder("prepare"))
    first = [rows[index]["rows"][0] for index in range(min(PROBED, len(rows)))]
    found = row_losses(measuring(model), seeing_of(run), first)
    return sum(total for total, _ in found) / sum(count for _, count in found)


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter, or all), processor with its chat template, generation settings."""
    processor = seeing_of(run).processor
    encoders.save(run, model, folder, processor)
    settings(processor.tokenizer).save_pretrained(str(folder))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, and its generated answer scored, with a small copy of its first image for the report."""
    seeing, wanted = seeing_of(run), run.recipe.eval
    with Album(_task(run).max_pixels) as album:
        examples, coded = _held_out(run, rows[: wanted.limit], album)
    items = [row.item for row in coded]
    with run.progress("held-out loss", len(items)) as tick:
        losses = row_losses(model, seeing, items, tick=tick)
    scored = []
    for example, row, (loss, tokens) in zip(examples, coded, losses, strict=True):
        asked = [{"role": m["role"], "content": _flat(m["content"])} for m in example["messages"][:-1]]
        asked[-1]["image"] = pictures.thumbnail(pictures.opened({"image": row.images()[0]}))
        reference = _flat(
            answer_of(example, seeing.processor.tokenizer)
            if example["messages"][-1].get("tool_calls")
            else example["messages"][-1]["content"]
        )
        scored.append(Scored(prompt=asked, reference=reference, loss_sum=loss, tokens=tokens))
    if wanted.generate:
        prompts = [(seeing.prompt(e["messages"][:-1], e["tools"]), _seen(e, row)) for e, row in zip(examples, coded, strict=True)]
        config = settings(seeing.processor.tokenizer, max_new_tokens=wanted.max_new_tokens)
        with run.progress("held-out answers", len(prompts)) as tick:
            texts = answers(model, seeing, prompts, config, batch_size=wanted.batch_size, tick=tick)
        for one, text in zip(scored, texts, strict=True):
            one.answer = text
        of_texts.score(scored, wanted)
    return scored


def _flat(said: Any) -> str:
    """A message's texts."""
    return said if isinstance(said, str) else " ".join(part["text"].strip() for part in said if part["type"] == "text").strip()


def _seen(example: Example, row: SeenRow) -> list[Any]:
    """The images that stand before the last message."""
    before = sum(p["type"] == "image" for m in example["messages"][:-1] if isinstance(m["content"], list) for p in m["content"])
    return [pictures.opened({"image": file}) for file in row.images()[:before]]


def formulas(run: Run) -> dict[str, Formula]:
    """Loss and perplexity; BLEU and chrF of the answers, where they are asked for."""
    return TEXT | of_texts.formulas(run.recipe.eval)
