"""Images and captions made ready for a diffusion model, as functions: `encode(run, found, folder)` -> what was kept, and PaintedRows."""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tuner.context import Run
from tuner.data import images, labelled
from tuner.data.chat import TokenRow
from tuner.data.images import squared
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.painted import Latents, Numbers, PaintedRows, write_said
from tuner.data.shapes import Example
from tuner.data.turns import Misfit
from tuner.errors import TuneError
from tuner.model.denoising import Denoising
from tuner.model.diffusion import Parts, parts_of
from tuner.model.load import DTYPES
from tuner.schema.data import RowShape
from tuner.schema.diffusion import Diffusion

AT_ONCE = 16  # captions encoded
LONGEST = {"tokenizer_3": 256, "tokenizer_2": 512}  # tokens that pipelines give to a T5: Stable Diffusion 3's, Flux's
FIX = "mend or remove it; a caption stands in `text`, in a .txt file beside the image, or is `task.instance_prompt` for all"


def task_of(run: Run) -> Diffusion:
    """The recipe's task."""
    assert isinstance(run.recipe.task, Diffusion)
    return run.recipe.task


def parts(run: Run) -> Parts:
    """The model's pipeline. Raises TuneError (code 2) for images that it cannot paint in this size, and for weights that it has none of."""
    found: Parts = run.keep("parts", lambda: parts_of(run.recipe.model, progress=run.tell))
    if side(run, found) % found.multiple:
        what = f"`task.resolution` is {side(run, found)}, and this model paints multiples of {found.multiple}"
        raise TuneError(what, "task.resolution", f"take {-(-side(run, found) // found.multiple) * found.multiple}")
    if found.flow and task_of(run).snr_gamma is not None:
        what = f"`task.snr_gamma` weighs levels of noise, and {run.recipe.model.id} learns a flow"
        raise TuneError(what, "task.snr_gamma", "leave it out")
    return found


def side(run: Run, found: Parts) -> int:
    """Pixels of each side."""
    return task_of(run).resolution or found.resolution


def caption(run: Run, example: Example) -> str:
    """A row's caption. Raises Misfit where it has none."""
    text = example.get("text")
    if text is not None and not isinstance(text, str):
        raise Misfit(f"the caption is no text: {text!r:.80}")
    said = (text or "").strip() or (task_of(run).instance_prompt or "").strip()
    if not said:
        raise Misfit(f"there is no caption of {images.name_of(example, 0)}")
    return said


def read(run: Run, rows: Rows) -> Found:
    """Rows of images. Raises TuneError (code 2) when they are something else."""
    return labelled.read(run, rows, ("labelled",), holds="image", beside="text", shape=RowShape.image)


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What was kept of the rows: of each its caption; and captions that are longer than the text encoders read."""

    found: Found
    captions: list[str]
    cut: set[str]
    marks: list[int]

    @property
    def rows(self) -> list[TokenRow]:
        """A token a row, which tells it from others by image and caption: for statistics."""
        marks = [zlib.crc32(text.encode(), mark) & 0x7FFFFFFF for text, mark in zip(self.captions, self.marks, strict=True)]
        trained = np.ones(1, np.bool_)
        return [
            TokenRow(ids=np.asarray([mark], np.int32), trained=trained, truncated=text in self.cut)
            for text, mark in zip(self.captions, marks, strict=True)
        ]


@torch.no_grad()
def encode(run: Run, rows: Rows, folder: Path, *, tick: Callable[[int], None] = lambda done: None) -> Encoded:
    """Write images and captions as the model learns them, by its own frozen parts, which are let go of then."""
    known = parts(run)
    found, latents = read(run, rows), Latents(folder)
    good, numbers = _latents(run, found, latents, tick)
    captions = [said for said, _ in numbers]
    pipeline = known.frozen(run.device, DTYPES[run.recipe.model.dtype])
    different = {said: index for index, said in enumerate(dict.fromkeys(captions), 1)}
    write_said(folder, [different[said] for said in captions], _said(run, pipeline, list(different)))
    cut = _cut(pipeline, list(different))
    del pipeline
    release()
    return Encoded(found=good, captions=captions, cut=cut, marks=[latents.marks[at] for _, at in numbers])


def _latents(run: Run, found: Found, latents: Latents, tick: Callable[[int], None]) -> tuple[Found, list[tuple[str, int]]]:
    """Encode the images of rows that have a caption: of each the caption, and the number of its latents."""
    known = parts(run)
    vae = known.part("vae", dtype=torch.float32).to(run.device).eval()

    def number(example: Example) -> tuple[str, int]:
        said = caption(run, example)
        at = latents.add(*_seen(vae, images.opened(example), side(run, known)))
        tick(at + 1)
        return said, at

    try:
        return labelled.numbered(found, number, run, fix=FIX)
    finally:
        latents.close()


def _seen(vae: Any, image: Any, pixels: int) -> tuple[Numbers, list[int]]:
    """What the autoencoder says of an image, mean and standard deviation, scaled as the model takes it; and the image's sizes."""
    made, sizes = squared(image, pixels)
    values = torch.from_numpy(np.asarray(made, np.float32)).permute(2, 0, 1)[None].to(vae.device) / 127.5 - 1
    said, scale = vae.encode(values).latent_dist, vae.config.scaling_factor
    both = torch.cat([(said.mean - (vae.config.shift_factor or 0.0)) * scale, said.std * scale])
    return both.cpu().numpy().astype(np.float16), sizes


def _said(run: Run, pipeline: Any, captions: list[str]) -> Iterator[tuple[Numbers, Numbers | None]]:
    """What the pipeline's text encoders say of no caption, then of each: [tokens, width], and pooled where the model asks for that."""
    known = signature(pipeline.encode_prompt).parameters
    options: dict[str, Any] = {"device": run.device, "num_images_per_prompt": 1}
    guided = "do_classifier_free_guidance" in known  # else guidance was learned too, and none is an empty text
    options |= {"do_classifier_free_guidance": True} if guided else {}
    batches = [captions[first : first + AT_ONCE] for first in range(0, len(captions), AT_ONCE)]
    for number, batch in enumerate(batches if guided else [[""], *batches]):
        more = {name: batch for name in ("prompt_2", "prompt_3") if name in known}
        said, *others = pipeline.encode_prompt(prompt=batch, **more, **options)
        pooled = others[1] if guided and len(others) > 1 else None if guided else others[0]
        if guided and not number:
            yield _half(others[0][0]), None if pooled is None else _half(others[2][0])
        for index in range(len(batch)):
            yield _half(said[index]), None if pooled is None else _half(pooled[index])


def _half(values: torch.Tensor) -> Numbers:
    found: Numbers = values.float().cpu().numpy().astype(np.float16)
    return found


def _cut(pipeline: Any, captions: list[str]) -> set[str]:
    """Captions that are longer than the text encoder reads that reads most."""
    name = next((name for name in LONGEST if pipeline.components.get(name.replace("tokenizer", "text_encoder")) is not None), "tokenizer")
    tokenizer = pipeline.components[name]
    limit = LONGEST[name] if name in LONGEST and "T5" in type(tokenizer).__name__ else int(tokenizer.model_max_length)
    return {said for said in captions if len(tokenizer(said).input_ids) > limit}


def release() -> None:
    """Give back what no name holds any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def learned(run: Run, rows: PaintedRows) -> Denoising:
    """What is learned of prepared rows."""
    task, known = task_of(run), parts(run)
    empty = {"prompt": torch.from_numpy(rows.prompts[0].astype(np.float32)), "pooled": torch.from_numpy(rows.pooled[0].astype(np.float32))}
    return Denoising(known, known.scheduler(), empty=empty, dropout=task.caption_dropout, gamma=task.snr_gamma, seed=run.recipe.seed)


class Steps(TrainerCallback):
    """Tells what is learned which step it is: what is drawn by chance hangs on it."""

    def __init__(self, learned: Denoising) -> None:
        self.learned = learned

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Before its first pass."""
        self.learned.step = state.global_step
