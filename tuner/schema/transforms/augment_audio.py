"""Augmentation of audio, with soundfile, soxr and Signalsmith Stretch: `data: {transforms: [augment_gain, {augment_pitch: {copies: 1}}]}`.

(audiomentations uses the same Stretch, and brings librosa, numba and scikit-learn: half a gigabyte; it draws from global generators.)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.augment import Augment, Ranged


@dataclass(kw_only=True)
class AugmentAudio(Augment):
    """A random change of a recording."""

    impl = "tuner.data.transforms.augment_audio"
    needs: ClassVar[tuple[str, ...]] = ("soundfile", "soxr", "python_stretch")
    columns: ClassVar[tuple[str, ...]] = ("column",)
    column: str = opt("audio")
    """The column: a file's path, its bytes, or a recording of a Hub dataset."""


@kind("transform", "augment_gain")
@dataclass(kw_only=True)
class Gain(AugmentAudio):
    """Makes it louder or softer by up to so many decibels; what is too loud is clipped."""

    main, example = "decibels", "augment_gain: 6"
    decibels: float = opt(6.0, gt=0, le=60)
    """Decibels, either way."""


@kind("transform", "augment_noise")
@dataclass(kw_only=True)
class Noise(AugmentAudio, Ranged):
    """Adds white noise, so many decibels below the recording."""

    example = "augment_noise: {least: 10, most: 30}"
    least: float = opt(10.0)
    """The smallest distance to the noise: the loudest noise, in decibels."""
    most: float = opt(30.0)
    """The largest distance, in decibels."""
    above: ClassVar[float] = -60.0


@kind("transform", "augment_pitch")
@dataclass(kw_only=True)
class Pitch(AugmentAudio):
    """Makes it higher or lower by up to so many semitones, as long as before."""

    main, example = "semitones", "augment_pitch: {semitones: 2, copies: 1}"
    semitones: float = opt(2.0, gt=0, le=24)
    """Semitones, either way."""


@kind("transform", "augment_speed")
@dataclass(kw_only=True)
class Speed(AugmentAudio, Ranged):
    """Makes it faster or slower, as high as before."""

    example = "augment_speed: {least: 0.9, most: 1.1}"
    least: float = opt(0.9)
    """The slowest: 0.5 is half as fast, twice as long."""
    most: float = opt(1.1)
    """The fastest."""
    above: ClassVar[float] = 0.1


@kind("transform", "augment_resample")
@dataclass(kw_only=True)
class Resample(AugmentAudio):
    """Resamples to a lower rate and back, which takes the high frequencies out: a telephone has 8000."""

    main, example = "least_hz", "augment_resample: 8000"
    least_hz: int = opt(8000, ge=1000)
    """The lowest rate, in samples a second."""
