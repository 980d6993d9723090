"""A conversation about images through the model's processor: `Seeing(processor, task).coded(messages, images)` -> text, ids, loss mask."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tuner.data.chat import render
from tuner.data.forms import Forms
from tuner.data.masks import Masker, Span
from tuner.data.shapes import Example
from tuner.data.turns import Message, Misfit
from tuner.errors import TuneError
from tuner.schema.vision import Vlm

Arrays = tuple[NDArray[np.int32], NDArray[np.bool_]]


class Seeing:
    """A processor at work. What is trained comes from characters of the rendered text, as for texts alone (data/masks.py); the processor
    tells which of them it put images in for."""

    def __init__(self, processor: Any, task: Vlm) -> None:
        self.processor, self.task = processor, task
        self.masker = Masker(processor.tokenizer)
        self.forms = Forms(self.masker)

    def inputs(self, texts: list[str], images: list[list[Image.Image]], **options: Any) -> Any:
        """What the processor makes of rendered conversations and their images. A text that begins with the mark of a beginning gets no
        second one, as in `apply_chat_template`. Raises Misfit with the processor's own words."""
        bos = self.processor.tokenizer.bos_token
        added = {"add_special_tokens": False} if bos is not None and texts[0].startswith(bos) else {}
        try:
            return self.processor(text=texts, images=images, **added, **options)
        except (ValueError, IndexError) as error:
            raise Misfit(f"the model's processor refuses it: {str(error).splitlines()[0]}") from error

    def prompt(self, messages: list[Message], tools: list[Any] | None = None) -> str:
        """A conversation up to the assistant's turn."""
        return self.masker.render(messages, tools=tools, prompt=True)

    def coded(self, example: Example, images: list[Image.Image]) -> tuple[str, Arrays, bool]:
        """(the rendered text, token ids and which are trained [T each], whether they were cut to `task.max_length`).

        Raises Misfit where an image would be cut.
        """
        text, spans = render(example, self.forms, self.task.loss_on)
        made = self.inputs([text], [images], return_offsets_mapping=True, return_text_replacement_offsets=True)
        if "text_replacement_offsets" not in made or "offset_mapping" not in made:
            what = f"{type(self.processor).__name__} does not tell where it puts images, so masks cannot be made"
            raise TuneError(what, "model.id", "choose another model: Qwen-VL, Idefics3, LLaVA, …")
        replaced = made["text_replacement_offsets"][0]
        ids = np.asarray(made["input_ids"][0], np.int32)
        starts = np.asarray([start for start, _ in made["offset_mapping"][0]], np.int64)
        trained = _within(starts, [(_moved(start, replaced), _moved(end, replaced)) for start, end in spans])
        seen = _within(starts, [r["new_span"] for r in replaced]) | np.isin(
            ids, [i for i in self.processor.image_token_ids if i is not None]
        )
        most = self.task.max_length
        if seen[most:].any():
            needed = int(np.flatnonzero(seen)[-1]) + 1
            what = f"its images take {int(seen.sum()):,} tokens and end at token {needed:,}, beyond `task.max_length` ({most:,})"
            raise Misfit(f"{what}: raise that, or lower `task.max_pixels`")
        return text, (ids[:most], (trained & ~seen)[:most]), len(ids) > most

    def shortened(self, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Runs of a mark, as an image has them, as one of it and their number."""
        marks = sorted({*self.processor.tokenizer.get_added_vocab(), self.processor.image_token}, key=len, reverse=True)
        runs = re.compile(f"({'|'.join(map(re.escape, marks))})\\1+")
        return [s | {"text": runs.sub(lambda m: f"{m[1]}×{len(m[0]) // len(m[1])}", s["text"])} for s in segments]


def _moved(place: int, replaced: list[dict[str, Any]]) -> int:
    """Where a character of the text stands once images were put in."""
    return place + sum(len(r["replacement"]) - len(r["text"]) for r in replaced if r["span"][1] <= place)


def _within(starts: NDArray[np.int64], spans: list[Span]) -> NDArray[np.bool_]:
    found = np.zeros(len(starts), np.bool_)
    for start, end in spans:
        found |= (starts >= start) & (starts < end)
    return found
