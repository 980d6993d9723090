"""Conversations about images as rows: `told(example)` -> messages with a mark for each image, and the images; `coded(…)` -> ids and mask.

The processor itself makes every batch (`model/seen.py`), of the rows' texts and images as they were: what it makes differs by model, in
size too. So prepared rows are token ids with their loss mask, texts (`talks.bin`), and image files one after the other (`images.bin`).
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image

from tuner.data.chat import TokenRow
from tuner.data.images import opened
from tuner.data.shapes import Example
from tuner.data.shown import files_of, item
from tuner.data.transforms.augment import content
from tuner.data.turns import Message, Misfit

MARK = "<image>"  # where an image stands in a text, as LLaVA's rows have it


@dataclass(slots=True, kw_only=True)
class SeenRow(TokenRow):
    """A conversation: its text before images were put in, and its images' files: from which on, and how many."""

    text: str
    first: int
    images: Callable[[], list[bytes]]

    @property
    def item(self) -> dict[str, Any]:
        """The row as a trainer takes it."""
        return item(self.ids, self.trained, self.text, self.images())


def told(example: Example) -> tuple[list[Message], list[Any]]:
    """Messages whose images are marks (`{"type": "image"}`), and the images in their order. Raises Misfit where the two do not go together.

    An image stands in its message; or beside the conversation, for the marks without one, or for `<image>` in texts; else before the first
    question.
    """
    beside, images = list(example.get("images", ())), list[Any]()
    waiting = iter(beside)
    messages = [_marked(message, waiting, images, marks=bool(beside)) for message in example["messages"]]
    left = list(waiting)
    if left and len(left) < len(beside):
        raise Misfit(f"{len(beside)} images stand beside the conversation, and it has a place for {len(beside) - len(left)}")
    if left:
        first = next((i for i, m in enumerate(messages) if m["role"] == "user"), None)
        if first is None:
            raise Misfit("nobody asks about the images: there is no message of the user")
        said = messages[first]["content"]
        parts = said if isinstance(said, list) else [{"type": "text", "text": said}]
        at = sum(p["type"] == "image" for m in messages[:first] if isinstance(m["content"], list) for p in m["content"])
        messages[first] = messages[first] | {"content": [*({"type": "image"} for _ in left), *parts]}
        images[at:at] = left
    if not images:
        raise Misfit("there is no image in the conversation, or beside it (`image`, `images`)")
    return messages, images


def _marked(message: Message, waiting: Any, images: list[Any], *, marks: bool) -> Message:
    said = message["content"]
    if isinstance(said, str):
        if not marks or MARK not in said:
            return message
        pieces = [piece for index, text in enumerate(said.split(MARK)) for piece in ([{"type": "image"}] * bool(index), text)]
        said = [p for piece in pieces for p in (piece if isinstance(piece, list) else [{"type": "text", "text": piece}] * bool(piece))]
    parts = []
    for part in said:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            parts.append({"type": "text", "text": part["text"]})
        elif kind in ("image", "image_url"):
            named = part.get("image_url")
            given = [part.get(name) for name in ("image", "path", "url", "bytes")]
            value = next((v for v in (*given, named.get("url") if isinstance(named, dict) else named) if v is not None), None)
            value = value if value is not None else next(waiting, None)
            if value is None:
                raise Misfit("there are more places for images than images beside the conversation")
            images.append(value)
            parts.append({"type": "image"})
        else:
            raise Misfit(f"a part of a message is neither a text nor an image: {str(part)[:80]}")
    return message | {"content": parts}


class Album:
    """Image files one after the other in a file (none: one that goes away by itself)."""

    def __init__(self, max_pixels: int, folder: Path | None = None) -> None:
        self.most, self.folder, self.ends = max_pixels, folder, [0]
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        self.file: Any = (folder / "images.bin").open("w+b") if folder else tempfile.TemporaryFile()  # noqa: SIM115 as long as the rows live

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()  # what `reader` has mapped stays

    def add(self, value: Any, beside: Path) -> Image.Image:
        """Append an image, made smaller where it has too many pixels; a name is one from where its row stands. Raises Misfit."""
        if isinstance(value, str) and value.startswith(("http://", "https://")):
            raise Misfit(f"images are read from this machine only: fetch {value[:80]}")
        value = str(beside / Path(value).expanduser()) if isinstance(value, str) else value
        try:
            kept = content({"image": value}, "image")
        except (OSError, ValueError) as error:
            raise Misfit(f"the image cannot be read: {error}") from error
        image = opened({"image": kept})
        small = smaller(image, self.most)
        if small is not image or not isinstance(kept, bytes):
            written = io.BytesIO()
            small.save(written, "PNG")
            kept = written.getvalue()
        self.file.write(kept)
        self.ends.append(self.ends[-1] + len(kept))
        return small

    def forget(self, count: int) -> None:
        """Take back the images from number `count` on: their row is left out."""
        del self.ends[count + 1 :]
        self.file.seek(self.ends[-1])
        self.file.truncate()

    def __len__(self) -> int:
        return len(self.ends) - 1

    def reader(self) -> Callable[[int, int], list[bytes]]:
        """What gives so many images' files, from a number on."""
        self.file.flush()
        return partial(files_of, np.memmap(self.file, np.uint8, "r"), np.asarray(self.ends, np.int64))


def smaller(image: Image.Image, max_pixels: int) -> Image.Image:
    """The image itself, or one of at most so many pixels."""
    share = (max_pixels / (image.width * image.height)) ** 0.5
    size = (max(1, int(image.width * share)), max(1, int(image.height * share)))
    return image if share >= 1 else image.resize(size, Image.Resampling.LANCZOS)


def write_seen(folder: Path, rows: Sequence[SeenRow], album: Album) -> None:
    """Write rows whose images lie in the folder; the caller marks it as done."""
    talks = [row.text.encode() for row in rows]
    (folder / "talks.bin").write_bytes(b"".join(talks))
    np.save(folder / "talk_ends.npy", np.cumsum([0, *map(len, talks)], dtype=np.int64))
    np.save(folder / "image_ends.npy", np.asarray(album.ends, np.int64))
    np.save(folder / "shown.npy", np.asarray([(row.first, len(row.images())) for row in rows], np.int64))
    np.save(folder / "ids.npy", np.concatenate([row.ids for row in rows]))
    np.save(folder / "trained.npy", np.concatenate([row.trained for row in rows]))
    np.save(folder / "ends.npy", np.cumsum([len(row.ids) for row in rows], dtype=np.int64))
