"""`task: diffusion`: images from texts with Stable Diffusion and its kin. A row is `{"image": "photo.jpg", "text": "a red circle"}`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import images, labelled
from tuner.data.audit import statistics
from tuner.data.load import Rows
from tuner.data.painted import PaintedRows
from tuner.data.shapes import Example
from tuner.data.splits import held_out
from tuner.eval import samples
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.model import diffusion
from tuner.model.adapt import measuring
from tuner.model.denoising import collate
from tuner.model.load import DTYPES
from tuner.schema.adapter import Full
from tuner.train import encoders, painting
from tuner.train.make import make_trainer, validation
from tuner.train.painting import Encoded, Steps, caption, encode, learned, parts, read, side, task_of
from tuner.train.possible import possible_here

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # rows whose loss is compared before saving and after loading


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Images to latents, captions to what the text encoders say of them; audit."""
    with run.progress("images prepared", len(rows)) as tick:
        done = encode(run, rows, folder, tick=tick)
    pixels, train = side(run, parts(run)), done.rows
    different = len(set(done.captions))
    taught = f"{different:,} different caption{'s' if different > 1 else ''}" + (f", {len(done.cut):,} of them cut" if done.cut else "")
    audited = {
        "rows": len(train),
        "tokens": len(train),
        "supervised_tokens": len(train),
        "share": 1.0,
        "rows_fully_masked": 0,
        "rows_truncated": sum(row.truncated for row in train),
        "taught": taught,
        "sample": _segments(run, done.found.examples[0], 0),
    }
    about = statistics(train) | {"pixels": [pixels, pixels]}
    encoders.noted(run, done.found, audited, about, folder, denoiser=parts(run).trained)


def _segments(run: Run, example: Example, index: int) -> list[dict[str, Any]]:
    pixels = side(run, parts(run))
    image = f"{images.name_of(example, index)} ({pixels} × {pixels} pixels)"
    return [{"text": f"{caption(run, example)} → ", "trained": False}, {"text": image, "trained": True}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row: its caption, and the image's name."""
    found, _ = _captions(run, rows[index : index + 1])
    counts = {"tokens": None, "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, found.examples[0], index)}


def _captions(run: Run, rows: Rows) -> Any:
    """Rows whose image can be read and that have a caption."""

    def number(example: Example) -> str:
        images.opened(example)
        return caption(run, example)

    return labelled.numbered(read(run, rows), number, run, fix=painting.FIX)


def check(run: Run, rows: Rows) -> None:
    """Held-out images can be read, and have captions."""
    _captions(run, rows[: run.recipe.eval.limit])


def possible(run: Run) -> None:
    """The adapter fits what is trained, as far as its configuration tells."""
    possible_here(run.recipe, run.device)
    diffusion.wrapped(parts(run).empty(), run.recipe.adapter)


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result, in diffusers' own way."""
    known, adapter = parts(run), run.recipe.adapter
    full = isinstance(adapter, Full)
    dtype = torch.float32 if trainable and full else DTYPES[run.recipe.model.dtype]
    model = known.base((run.loads_on or run.device) if trainable else run.device, dtype, tuned=tuned if full else None)
    if tuned is not None and not full:
        model = diffusion.attached(model, known, tuned)
    run.kept["painter"] = "base" if tuned is None else "tuned"
    if trainable and run.recipe.trainer.activation_checkpointing:
        cast(Any, model).enable_gradient_checkpointing()
    return diffusion.wrapped(model, adapter) if trainable else model


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    args.activation_checkpointing = False  # diffusers' models have a way of their own, which `load` chose
    rows = PaintedRows(prepared)

    def written(folder: Path) -> PaintedRows:
        if run.leads:
            encode(run, held_out(run), folder)
        return PaintedRows(folder)

    wanted = learned(run, rows)
    nothing: Any = None  # there is no tokenizer that a checkpoint would need
    options: dict[str, Any] = {"rows": rows, "eval_rows": validation(run, written), "tokenizer": nothing}
    return make_trainer(run, model, args, [*callbacks, Steps(wanted)], objective=wanted.objective(rows), **options)


@torch.no_grad()
def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    rows = PaintedRows(run.stage_folder("prepare"))
    return float(_losses(run, model, rows, range(min(PROBED, len(rows)))).mean())


def _losses(run: Run, model: nn.Module, rows: PaintedRows, chosen: Sequence[int]) -> torch.Tensor:
    batch = collate([rows[index] for index in chosen])
    batch.pop("filler")
    return learned(run, rows).losses(measuring(model), {name: value.to(run.device) for name, value in batch.items()})


def save(run: Run, model: Any, folder: Path) -> None:
    """A LoRA as diffusers' pipelines load it, or the whole of what was trained."""
    if isinstance(run.recipe.adapter, Full):
        model.to(DTYPES[run.recipe.model.dtype])
    diffusion.save(model, run.recipe.adapter, parts(run), folder)


@torch.no_grad()
def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, at noise and levels that are the same for base and tuned; and what is painted for the report."""
    done, coded = _measured(run, rows)
    size, found = run.recipe.eval.batch_size, list[Scored]()
    with run.progress("held-out images", len(coded)) as tick:
        for first in range(0, len(coded), size):
            chosen = range(first, min(first + size, len(coded)))
            for index, loss in zip(chosen, _losses(run, model, coded, chosen).tolist(), strict=True):
                shown = images.thumbnail(images.opened(done.found.examples[index]))
                prompt = {"role": "user", "content": done.captions[index], "image": shown}
                found.append(Scored(prompt=[prompt], reference="", loss_sum=loss, tokens=1))
            tick(chosen[-1] + 1)
    if run.recipe.eval.generate:
        _paint(run, model, done.captions)
    return found


def _measured(run: Run, rows: Rows) -> tuple[Encoded, PaintedRows]:
    """Held-out rows, encoded once in this process."""

    def made() -> Any:
        with tempfile.TemporaryDirectory(prefix="tune-held-out-") as folder:
            done = encode(run, rows[: run.recipe.eval.limit], Path(folder))
            return done, PaintedRows(Path(folder))  # what is mapped stays when its name is gone

    found: tuple[Encoded, PaintedRows] = run.keep("held-out images", made)
    return found


def _paint(run: Run, model: nn.Module, captions: Sequence[str]) -> None:
    """Paint the samples; the tuned model's are compared with the base's."""
    task, known = task_of(run), parts(run)
    prompts = task.sample_prompts or list(dict.fromkeys(captions))[: task.samples]
    pipeline = known.frozen(run.device, DTYPES[run.recipe.model.dtype])
    with run.progress("samples painted", len(prompts)) as tick, diffusion.painting_with(pipeline, known, model) as ready:
        made = samples.paint(ready, prompts, side=side(run, known), steps=task.sample_steps, guidance=task.guidance_scale, tick=tick)
    del pipeline, ready
    painting.release()
    tuned = run.kept["painter"] == "tuned"
    folder = run.stage_folder("evaluate" if tuned else "baseline")
    samples.keep(folder, made)
    if tuned:
        samples.compare(prompts, run.stage_folder("baseline"), folder, run.folder / samples.GRID)


def formulas(run: Run) -> dict[str, Formula]:
    """The mean squared error."""
    return {"loss": mean_loss}
