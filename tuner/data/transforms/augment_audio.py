"""Steps that augment recordings: `STEPS["augment_pitch"]`. What each does is said in schema/transforms/augment_audio.py."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray
from python_stretch import Signalsmith

from tuner.data.transforms.augment import Change, augmented, content, remade
from tuner.data.transforms.steps import Row, Step

Sound = NDArray[np.float32]  # (channels, samples), between -1 and 1


def _sounds(change: Callable[[Sound, int, Any, random.Random], Sound]) -> Step:
    """A step that changes a column of recordings. A file is written as FLAC of 16 bits, which loses nothing of what it changed."""

    def of(step: Any) -> Change:
        def augment(row: Row, own: random.Random) -> Row:
            value = content(row, step.column)
            if isinstance(value, dict):
                sound, rate = np.atleast_2d(np.asarray(value["array"], dtype=np.float32)), int(value["sampling_rate"])
                if not sound.size:
                    return row
                made = _changed(sound, rate, own)
                return row | {step.column: value | {"array": made[0] if np.ndim(value["array"]) == 1 else made}}
            try:
                sound, rate = soundfile.read(io.BytesIO(value), dtype="float32", always_2d=True)
            except (TypeError, soundfile.LibsndfileError) as error:
                raise ValueError(f"`{step.column}` cannot be read as a recording: {error}") from error
            if not sound.size:
                return row
            written = io.BytesIO()
            soundfile.write(written, _changed(sound.T, rate, own).T, rate, format="FLAC", subtype="PCM_16")
            return remade(row, step.column, written)

        def _changed(sound: Sound, rate: int, own: random.Random) -> Sound:
            return np.clip(change(np.ascontiguousarray(sound), rate, step, own), -1, 1).astype(np.float32)

        return augment

    return augmented(of, key=_key)


def _key(step: Any, row: Row) -> Any:
    value = content(row, step.column)
    return np.asarray(value["array"]).tobytes() if isinstance(value, dict) else value


def _noisy(sound: Sound, rate: int, step: Any, own: random.Random) -> Sound:
    noise = np.random.default_rng(own.getrandbits(64)).standard_normal(sound.shape, dtype=np.float32)
    loudness = float(np.sqrt(np.mean(sound**2)))
    return sound + noise * np.float32(loudness * 10 ** (-own.uniform(step.least, step.most) / 20))


def _stretched(sound: Sound, rate: int, *, semitones: float = 0.0, speed: float = 1.0) -> Sound:
    stretch = Signalsmith.Stretch()
    stretch.preset(sound.shape[0], rate)
    stretch.setTransposeSemitones(semitones)
    stretch.setTimeFactor(speed)
    return np.asarray(stretch.process(sound), dtype=np.float32)


def _dulled(sound: Sound, rate: int, step: Any, own: random.Random) -> Sound:
    low = own.uniform(min(step.least_hz, rate), rate)
    back = soxr.resample(soxr.resample(sound.T, rate, low), low, rate).T
    return np.pad(back, ((0, 0), (0, max(0, sound.shape[1] - back.shape[1]))))[:, : sound.shape[1]]


STEPS: dict[str, Step] = {
    "augment_gain": _sounds(lambda sound, rate, step, own: sound * np.float32(10 ** (own.uniform(-step.decibels, step.decibels) / 20))),
    "augment_noise": _sounds(_noisy),
    "augment_pitch": _sounds(
        lambda sound, rate, step, own: _stretched(sound, rate, semitones=own.uniform(-step.semitones, step.semitones))
    ),
    "augment_speed": _sounds(lambda sound, rate, step, own: _stretched(sound, rate, speed=own.uniform(step.least, step.most))),
    "augment_resample": _sounds(_dulled),
}
