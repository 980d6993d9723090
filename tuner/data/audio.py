"""Recordings as what a model hears: `wave(row["audio"], 16000, …)` -> samples; `Hearing(extractor)(samples)` -> numbers [steps, width].

What a prepare stage writes (`write_sounds`) is read back by `SoundRows`: fp16, as long as the recording is. Silence that an extractor
fills up with (Whisper's to 30 s) is the last step over and over, so that it is added when a batch is made.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from tuner.data.turns import Misfit
from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load

Sound = NDArray[np.float32]
Features = NDArray[np.float16]


def _package(name: str) -> Any:
    try:
        return load(name)
    except ImportError as error:
        fix = "pip install 'tuner[speech]'"
        raise TuneError(f"recordings are read with {name}", "task", fix, code=ENVIRONMENT) from error


def wave(value: Any, rate: int, *, beside: Path | None = None) -> Sound:
    """A recording's samples at `rate`, its channels averaged: a path (relative: `beside` a manifest), a file's bytes, or an array.

    Raises Misfit where there is none, or nothing in it.
    """
    soundfile, soxr = _package("soundfile"), _package("soxr")
    if isinstance(value, dict) and "array" in value:
        found, given = np.asarray(value["array"], np.float32), int(value["sampling_rate"])
        found = found.mean(axis=int(np.argmin(found.shape))) if found.ndim == 2 else found
    else:
        source = value.get("bytes") or value.get("path") if isinstance(value, dict) else value
        if isinstance(source, str):
            path = Path(source).expanduser()
            source = str(beside / path if beside and not path.is_absolute() and not path.is_file() else path)
        if not isinstance(source, str | bytes) or not source:
            raise Misfit(f"`audio` is no recording: {value!r:.80}")
        try:
            many, given = soundfile.read(io.BytesIO(source) if isinstance(source, bytes) else source, dtype="float32", always_2d=True)
        except (OSError, soundfile.LibsndfileError) as error:
            raise Misfit(f"the recording cannot be read: {error}") from error
        found = many.mean(axis=1)
    if not found.size or not np.isfinite(found).all():
        raise Misfit("the recording is empty" if not found.size else "the recording holds what is no number")
    return found if given == rate else np.asarray(soxr.resample(found, given, rate), np.float32)


class Hearing:
    """A feature extractor as a function of one recording: `hearing(samples)` -> [steps, width] in fp16; a batch of them is `padded`."""

    def __init__(self, extractor: Any) -> None:
        self.extractor = extractor
        self.rate = int(extractor.sampling_rate)
        self.name = str(extractor.model_input_names[0])
        shown = self._heard(np.zeros(self.rate, np.float32))
        self.turned = shown.ndim == 2 and self.name == "input_features" and shown.shape[0] == extractor.feature_size  # [width, steps]
        steps = shown.shape[1] if self.turned else shown.shape[0]
        # As many steps for any recording: filled up to so many.
        self.fixed = steps if steps == len(self._plain(np.zeros(self.rate // 2, np.float32))) else None
        self.seconds = float(extractor.chunk_length) if self.turned else None
        self.masks = self.fixed is None and bool(extractor.return_attention_mask)

    def _heard(self, samples: Sound) -> NDArray[Any]:
        return np.asarray(self.extractor(samples, sampling_rate=self.rate, return_tensors="np")[self.name][0])

    def _plain(self, samples: Sound) -> NDArray[Any]:
        heard = self._heard(samples)
        return heard.T if self.turned else heard if heard.ndim == 2 else heard[:, None]

    def __call__(self, samples: Sound) -> Features:
        """What the model hears of a recording, without silence at its end where more of the same is all that follows."""
        heard = self._plain(samples).astype(np.float16)
        if self.fixed is None:
            return heard
        same = (heard == heard[-1]).all(axis=1)
        return heard[: len(heard) - int(np.argmin(same[::-1])) + 1] if not same.all() else heard[:1]

    def padded(self, rows: list[Features]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Several as one array [rows, …] as the model takes it, and which of its steps are heard [rows, steps]."""
        longest = self.fixed or max(map(len, rows))
        found = np.zeros((len(rows), longest, rows[0].shape[1]), np.float32)
        mask = np.zeros((len(rows), longest), np.int64)
        for place, row in enumerate(rows):
            found[place, : len(row)], mask[place, : len(row)] = row, 1
            if self.fixed:
                found[place, len(row) :] = row[-1]
        if self.turned:
            found = np.ascontiguousarray(found.transpose(0, 2, 1))
        return found if found.shape[-1] > 1 or self.turned else found[..., 0], mask


def write_sounds(folder: Path, heard: Iterable[Features]) -> None:
    """Write what is heard, row by row: `features.npy` [steps, width] and where each row ends in it, `feature_ends.npy`."""
    folder.mkdir(parents=True, exist_ok=True)
    part, lengths, width = folder / "features.part", list[int](), 1
    with part.open("wb") as stream:
        for one in heard:
            stream.write(np.ascontiguousarray(one).tobytes())
            lengths.append(len(one))
            width = one.shape[1]
    if not lengths:
        return
    whole = np.lib.format.open_memmap(folder / "features.npy", mode="w+", dtype=np.float16, shape=(sum(lengths), width))
    written = np.memmap(part, np.float16, mode="r", shape=whole.shape)
    for first in range(0, len(whole), 1 << 16):
        whole[first : first + (1 << 16)] = written[first : first + (1 << 16)]
    whole.flush()
    del written
    part.unlink()
    np.save(folder / "feature_ends.npy", np.cumsum(lengths, dtype=np.int64))


def labelled(ids: NDArray[np.int32], trained: NDArray[np.bool_]) -> dict[str, list[int]]:
    """A text as a trainer takes it: labels are -100 where nothing is learned."""
    return {"input_ids": ids.tolist(), "labels": np.where(trained, ids, -100).tolist()}


class SoundRows(Dataset[dict[str, Any]]):
    """Prepared recordings: an item holds one `{"features", "input_ids", "labels"}`; of a class `labels` is its number."""

    packs = None

    def __init__(self, folder: Path) -> None:
        self.features = np.load(folder / "features.npy", mmap_mode="r")
        self.feature_ends = np.load(folder / "feature_ends.npy")
        self.ids = np.load(folder / "ids.npy", mmap_mode="r")
        self.trained = np.load(folder / "trained.npy", mmap_mode="r")
        self.ends = np.load(folder / "ends.npy")
        path = folder / "classes.npy"
        self.classes = np.load(path) if path.is_file() else None

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: int) -> dict[str, Any]:
        first, last = (int(self.feature_ends[index - 1]) if index else 0), int(self.feature_ends[index])
        start, end = (int(self.ends[index - 1]) if index else 0), int(self.ends[index])
        row: dict[str, Any] = labelled(self.ids[start:end], self.trained[start:end])
        if self.classes is not None:
            row["labels"] = int(self.classes[index])
        return {"rows": [row | {"features": np.asarray(self.features[first:last])}]}

    @property
    def lengths(self) -> NDArray[np.int64]:
        """What rows are grouped by: tokens of each text; of classes steps of each recording [rows]."""
        found: NDArray[np.int64] = np.diff(self.ends if self.classes is None else self.feature_ends, prepend=0)
        return found
