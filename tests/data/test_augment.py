"""Augmentation: each step has an effect, drawn by the row and the seed alone, with copies or in place, on training rows only."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from PIL import Image

from tests.data.test_transforms import rows_of, run, turns
from tests.lab import make_lab
from tuner.data import transform
from tuner.data.splits import split
from tuner.data.transform import apply, ready
from tuner.errors import TuneError
from tuner.registry import kinds
from tuner.schema.transforms.reading import read_step, steps

TEXT = "How do I reset the password of my account, please?"
RATE = 16_000

# step -> whether the text that came out is what the step says
TEXTS: dict[str, Callable[[str], bool]] = {
    "augment_typos: {fields: [text], rate: 0.2}": lambda text: (
        text != TEXT and abs(len(text) - len(TEXT)) + sum(map(str.__ne__, text, TEXT)) > 0
    ),
    "augment_case: [text]": lambda text: text in (TEXT.lower(), TEXT.upper(), TEXT[:-1]),
    "augment_drop_words: {fields: [text], rate: 0.3}": lambda text: len(text.split()) == 7 and set(text.split()) < set(TEXT.split()),
    "augment_swap_words: [text]": lambda text: text != TEXT and sorted(text.split()) == sorted(TEXT.split()),
}


def picture(*, size: tuple[int, int] = (32, 24), form: str = "PNG", mode: str = "RGB") -> bytes:
    """Red on the left, a gradient to the right."""
    values = np.zeros((size[1], size[0], 3), dtype=np.uint8)
    values[:, :, 1] = np.linspace(0, 255, size[0], dtype=np.uint8)
    values[:, : size[0] // 4] = (200, 30, 30)
    written = io.BytesIO()
    Image.fromarray(values).convert(mode).save(written, form)
    return written.getvalue()


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


BEFORE = pixels(picture())
IMAGES: dict[str, Callable[[Any], bool]] = {
    "augment_flip": lambda after: bool((after == BEFORE[:, ::-1]).all()),
    "augment_flip: {vertical: true}": lambda after: bool((after == BEFORE[::-1]).all()),
    "augment_rotate: 45": lambda after: bool((after[0, 0] == 0).all()),
    "augment_crop: 0.5": lambda after: len(np.unique(after[0], axis=0)) < len(np.unique(BEFORE[0], axis=0)) + 8,
    "augment_colour: 0.5": lambda after: abs(after.mean() - BEFORE.mean()) > 1,
    "augment_blur: 100": lambda after: np.abs(np.diff(after, axis=1)).max() < np.abs(np.diff(BEFORE, axis=1)).max(),
    "augment_erase: 0.5": lambda after: bool((after == 128).all(axis=2).any()),
}


def recording(*, hz: float = 440.0, seconds: float = 1.0, form: str = "WAV", channels: int = 1) -> bytes:
    """A tone."""
    tone = 0.3 * np.sin(2 * np.pi * hz * np.arange(int(RATE * seconds)) / RATE)
    written = io.BytesIO()
    soundfile.write(written, np.stack([tone] * channels, axis=1), RATE, format=form)
    return written.getvalue()


def heard(content: bytes) -> Any:
    sound, rate = soundfile.read(io.BytesIO(content), dtype="float64")
    assert rate == RATE
    return sound


def pitch(sound: Any) -> float:
    return float(np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound))


def loudness(sound: Any) -> float:
    return float(np.sqrt(np.mean(sound**2)))


TONE = heard(recording())
SOUNDS: dict[str, Callable[[Any], bool]] = {
    "augment_gain: 6": lambda after: (
        len(after) == RATE and 0.49 < loudness(after) / loudness(TONE) < 2.01 and loudness(after) != loudness(TONE)
    ),
    "augment_noise: {least: 10, most: 10}": lambda after: 9.5 < 20 * np.log10(loudness(TONE) / loudness(after - TONE)) < 10.5,
    "augment_pitch: 4": lambda after: len(after) == RATE and 345 < pitch(after) < 560 and abs(pitch(after) - 440) > 2,
    "augment_speed: {least: 1.25, most: 1.25}": lambda after: len(after) == RATE / 1.25 and abs(pitch(after) - 440) < 5,
    "augment_resample: 8000": lambda after: len(after) == RATE and abs(pitch(after) - 440) < 2,
}


@pytest.mark.parametrize("step", TEXTS)
def test_a_text_is_changed_as_the_step_says(step: str) -> None:
    (row,) = run(step, [{"text": TEXT, "completion": TEXT}])
    assert TEXTS[step](row["text"]), row
    assert row["completion"] == TEXT


@pytest.mark.parametrize("step", TEXTS)
def test_of_messages_the_user_s_alone_are_changed(step: str) -> None:
    (row,) = run(step, [{"text": turns(f"user: {TEXT}", f"assistant: {TEXT}", f"system: {TEXT}")}])
    assert TEXTS[step](row["text"][0]["content"]), row
    assert row["text"][1:] == turns(f"assistant: {TEXT}", f"system: {TEXT}")


@pytest.mark.parametrize("step", TEXTS)
@pytest.mark.parametrize("text", ["", "a", "?", "日本語のテキスト", "x\n", "👍🏽"])
def test_texts_of_all_kinds_come_through(step: str, text: str) -> None:
    (row,) = run(step, [{"text": text}])
    assert isinstance(row["text"], str)


@pytest.mark.parametrize("step", IMAGES)
def test_an_image_is_changed_as_the_step_says(step: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture())
    (by_path,) = run(step, [{"image": str(tmp_path / "a.png"), "label": 1}])
    (by_bytes,) = run(step, [{"image": picture()}])
    (by_both,) = run(step, [{"image": {"bytes": picture(), "path": None}}])
    assert IMAGES[step](pixels(by_path["image"]))
    assert by_path == {"image": by_bytes["image"], "label": 1}, "what is drawn depends on the content, not on where it lies"
    assert by_both["image"] == {"bytes": by_bytes["image"], "path": None}
    (decoded,) = run(step, [{"image": Image.open(io.BytesIO(picture()))}])
    assert isinstance(decoded["image"], Image.Image)


@pytest.mark.parametrize("step", IMAGES)
@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_images_of_all_modes_come_through(step: str, mode: str) -> None:
    form = "TIFF" if mode == "CMYK" else "PNG"
    (row,) = run(step, [{"image": picture(mode=mode, form=form)}])
    assert pixels(row["image"]).shape == (24, 32, 3)
    (small,) = run(step, [{"image": picture(size=(4, 1))}])
    assert pixels(small["image"]).shape == (1, 4, 3)


def test_a_photograph_stays_one() -> None:
    (row,) = run("augment_flip", [{"image": picture(form="JPEG")}])
    assert Image.open(io.BytesIO(row["image"])).format == "JPEG"


@pytest.mark.parametrize("step", SOUNDS)
def test_a_recording_is_changed_as_the_step_says(step: str, tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(recording())
    (by_path,) = run(step, [{"audio": str(tmp_path / "a.wav")}])
    assert SOUNDS[step](heard(by_path["audio"]))
    assert run(step, [{"audio": recording()}]) == [by_path]
    (stereo,) = run(step, [{"audio": recording(channels=2, form="FLAC")}])
    assert heard(stereo["audio"]).shape[1] == 2
    (decoded,) = run(step, [{"audio": {"array": TONE, "sampling_rate": RATE}}])
    assert SOUNDS[step](decoded["audio"]["array"].astype(float))
    (empty,) = run(step, [{"audio": recording(seconds=0)}])
    assert len(heard(empty["audio"])) == 0
    nothing = {"audio": {"array": np.zeros(0), "sampling_rate": RATE}}
    assert run(step, [nothing])[0] is nothing


def test_high_frequencies_are_gone_after_resampling() -> None:
    (row,) = run("augment_resample: 1000", [{"audio": recording(hz=7900)}])
    assert loudness(heard(row["audio"])) < 0.1 * loudness(TONE)


def test_every_augmentation_has_a_case_and_is_for_training_rows_alone() -> None:
    cases = [read_step(yaml.safe_load(case))[0] for case in [*TEXTS, *IMAGES, *SOUNDS]]
    assert {step.kind for step in cases if step} == {name for name in kinds("transform") if name.startswith("augment_")}
    for name, cls in kinds("transform").items():
        if name.startswith("augment_"):
            step, wrong = read_step(yaml.safe_load(cls.example))
            assert (wrong, step is not None and step.kind) == ([], name)
            assert not step.shapes_held_out  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("step", "column", "values"),
    [
        ("augment_typos: {fields: [v], rate: 0.3, copies: 2}", "v", [TEXT, "another text of some words", "a third one, just as long"]),
        ("augment_crop: {least: 0.3, column: v, copies: 2}", "v", [picture(), picture(size=(9, 9)), picture(form="JPEG")]),
        ("augment_noise: {column: v, copies: 2, least: 10, most: 30}", "v", [recording(), recording(hz=500), recording(hz=600)]),
    ],
)
def test_copies_stand_behind_their_row_and_depend_on_it_and_the_seed_alone(step: str, column: str, values: list[Any]) -> None:
    rows = [{column: value} for value in values]
    made = run(step, rows)
    assert [made[i] for i in (0, 3, 6)] == rows
    assert len({str(row) for row in made}) == 9, "no two are the same"
    assert run(step, rows) == made
    assert run(step, [*rows[::-1]]) == [*made[6:], *made[3:6], *made[:3]]
    other, _ = apply(rows_of(rows), steps([yaml.safe_load(step)]), seed=1)
    assert list(other) != made
    twice = run(step, [rows[0], rows[0]])
    assert twice[:3] == made[:3]
    assert twice[4:] != made[1:3], "equal rows draw others"


def test_chance_is_a_share_of_the_rows_and_a_copy_that_changes_nothing_is_none() -> None:
    rows = [{"text": f"{TEXT} {n}"} for n in range(400)]
    changed = sum(a != b for a, b in zip(rows, run("augment_typos: {fields: [text], rate: 0.5, chance: 0.25}", rows), strict=True))
    assert 70 < changed < 130
    assert 470 < len(run("augment_typos: {fields: [text], rate: 0.5, chance: 0.25, copies: 1}", rows)) < 530
    assert run("augment_drop_words: {fields: [text], copies: 3}", [{"text": "one"}]) == [{"text": "one"}]


@pytest.mark.parametrize(
    ("step", "row", "what"),
    [
        ("augment_flip", {"image": b"no image"}, "`image` cannot be read as an image"),
        ("augment_flip", {"image": "/no/such/file.png"}, "No such file"),
        ("augment_flip", {"image": None}, "`image` is empty"),
        ("augment_flip", {"image": 3}, "`image` is no image: 3"),
        ("augment_gain", {"audio": b"no recording"}, "`audio` cannot be read as a recording"),
        ("augment_gain", {"audio": 3}, "`audio` cannot be read as a recording"),
        ("augment_flip: {column: imag}", {"image": b""}, "no row has a column `imag`"),
        ("augment_typos: [txet]", {"text": "a"}, "no row has a column `txet`"),
    ],
)
def test_what_cannot_be_augmented_is_told_with_its_place(step: str, row: dict[str, Any], what: str) -> None:
    with pytest.raises(TuneError) as caught:
        run(step, [row])
    assert what in caught.value.problems[0].what
    assert caught.value.problems[0].where in ("rows.jsonl:1", f"data.transforms, step 1 ({step.partition(':')[0]})")


@pytest.mark.parametrize(
    ("item", "what"),
    [
        ("augment_typos", "`augment_typos` needs `fields`"),
        ("augment_speed: {least: 1.2, most: 1.1}", "`augment_speed`: `least` and `most` are no range above 0.1: 1.2 to 1.1"),
        ("augment_crop: 1.5", "`augment_crop.least` must be less than 1, not 1.5"),
        ("augment_flip: {copies: -1}", "`augment_flip.copies` must be at least 0, not -1"),
    ],
)
def test_wrong_amounts_are_told_while_composing(item: str, what: str) -> None:
    assert read_step(yaml.safe_load(item))[1][0][0] == what


def test_a_library_that_is_missing_is_told_before_any_row_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transform, "find_spec", lambda name: None)
    with pytest.raises(TuneError) as caught:
        ready(steps(["augment_gain", "fix_encoding", "trim"]))
    told = [(p.what, p.fix) for p in caught.value.problems]
    assert ("`augment_gain` needs soundfile, which is not installed", 'pip install "tuner[augment,clean]"') in told
    assert len(told) == 4
    lab = make_lab(tmp_path)
    (tmp_path / "train.jsonl").write_text("no json\n", encoding="utf-8")
    with pytest.raises(TuneError, match="needs PIL") as caught:
        split(lab.run("data.transforms=[augment_flip]"))
    assert caught.value.code == 4


def test_held_out_rows_are_left_as_they_are(tmp_path: Path) -> None:
    lab = make_lab(tmp_path)
    _, before = split(lab.run())
    train, held_out = split(lab.run("data.transforms=[{augment_typos: {fields: [messages], rate: 1, copies: 1}}]"))
    assert list(held_out) == list(before)
    assert len(train) == 80
    assert train.place(1) == train.place(0)
