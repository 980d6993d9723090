"""`task: transcribe`, `task: classify_audio`: what is heard and learned, rates as jiwer's, what is saved and refused, over tiny models."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
import torch
from peft import PeftModel
from transformers import (
    AutoFeatureExtractor,
    AutoModelForAudioClassification,
    AutoModelForSpeechSeq2Seq,
    AutoTokenizer,
    GenerationConfig,
    WhisperFeatureExtractor,
)

from tests.lab import losses_of, task_of, train, weights_of
from tests.tasks import cards, hearing
from tuner import cli
from tuner.data.audio import Hearing, SoundRows, wave
from tuner.data.splits import held_out, split
from tuner.errors import BAD_RECIPE, TuneError
from tuner.eval.scores import Scored, summary
from tuner.eval.speech import errors, formulas, normalizer
from tuner.runs import read_json
from tuner.schema.audio import Normalizer


def test_what_is_stored_is_what_the_extractor_gives(tmp_path: Path) -> None:
    """Only as long as the recording is; the silence that fills it up comes back exactly, up to fp16."""
    extractor = WhisperFeatureExtractor(feature_size=80)
    samples = np.random.default_rng(0).standard_normal(12_345).astype(np.float32) * 0.1
    listen = Hearing(extractor)
    heard = listen(samples)
    assert len(heard) < 100
    batch, _ = listen.padded([heard, heard[:50]])
    whole = extractor(samples, sampling_rate=16_000, return_tensors="np")["input_features"][0]
    assert batch.shape == (2, 80, 3000)
    assert np.array_equal(batch[0], whole.astype(np.float16).astype(np.float32))


def test_recordings_are_read_from_paths_bytes_and_arrays(tmp_path: Path) -> None:
    tones = np.sin(np.arange(8000) / 5).astype(np.float32)
    soundfile.write(tmp_path / "a.flac", np.stack([tones, np.zeros_like(tones)], 1), 8000)
    path = wave("a.flac", 16_000, beside=tmp_path)
    assert len(path) == 16_000
    assert np.allclose(path, wave({"bytes": (tmp_path / "a.flac").read_bytes(), "path": None}, 16_000))
    assert np.allclose(path, wave({"array": tones / 2, "sampling_rate": 8000}, 16_000), atol=1e-3)


def heard_at(path: Path) -> str:
    """A recording in a card's lines, without ffmpeg."""
    return f"__import__('tuner.data.audio', fromlist=['wave']).wave({str(path)!r}, 16_000)"


def test_rates_are_those_of_jiwer() -> None:
    pairs = [("one two three", "one too"), ("four", "four five six"), ("seven eight", ""), ("nine", "nine")]
    rows = [Scored(prompt=[], reference=a, answer=b, counts=errors(a, b)) for a, b in pairs]
    found = summary(rows, formulas(spaced=True, generated=True))
    true, said = (list(side) for side in zip(*pairs, strict=True))
    assert found["wer"] == pytest.approx(jiwer.wer(true, said))
    assert found["cer"] == pytest.approx(jiwer.cer(true, said))
    chinese = [Scored(prompt=[], reference="", counts=errors("今天 天气好", "今天天好", spaced=False))]
    assert summary(chinese, formulas(spaced=False, generated=True))["cer"] == pytest.approx(1 / 5)
    assert "wer" not in formulas(spaced=False, generated=True)


def test_a_whisper_learns_words_and_loads_in_plain_transformers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = hearing.spoken(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", "adapter=full", "trainer.num_train_epochs=25"]) == 0
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        found = read_json(folder / "metrics.json")
        assert found["tuned"]["wer"] < 0.2 < found["base"]["wer"]
        assert found["tuned"]["cer"] < 0.2
        plain: Any = AutoModelForSpeechSeq2Seq.from_pretrained(folder)
        samples = wave(str(tmp_path / "eval1.wav"), 16_000)
        inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=16_000, return_tensors="pt")
        out = plain.generate(**inputs, max_new_tokens=8, do_sample=False)
        assert AutoTokenizer.from_pretrained(folder).decode(out[0], skip_special_tokens=True).strip() == "mid"
        before = AutoModelForSpeechSeq2Seq.from_pretrained(hearing.whisper()).state_dict()
        still = [name for name, value in plain.state_dict().items() if torch.equal(value, before[name])]
        assert still == ["model.encoder.embed_positions.weight"]
        assert "pipeline_tag: automatic-speech-recognition" in (folder / "README.md").read_text(encoding="utf-8")
        # It runs; what it prints is the pipeline's, which takes every token above the tiny tokenizer's marks for a time.
        cards.printed(folder, {'"recording.wav"': heard_at(tmp_path / "eval2.wav"), '"num_beams"': '"max_new_tokens": 8, "num_beams"'})
        capsys.readouterr()
        assert cli.main(["try", "small", str(tmp_path / "eval2.wav"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1]) == "high"


def test_an_adapter_of_many_languages_is_told_which_one(tmp_path: Path) -> None:
    """What Whisper begins with is given and not learned; the adapter loads in plain PEFT; of Chinese characters are counted."""
    lab = hearing.spoken(tmp_path, several=True)
    with pytest.raises(TuneError, match="which one is spoken") as caught:
        task_of(lab.run()).possible(lab.run())
    assert caught.value.code == BAD_RECIPE
    run = lab.run("task.language=chinese", "trainer.num_train_epochs=2")
    result = train(run)
    (row,) = SoundRows(run.stage_folder("prepare"))[0]["rows"]
    assert row["input_ids"][:4] == [1, 3, 5, 6]
    assert row["labels"][:4] == [-100] * 4
    assert row["labels"][4:] == row["input_ids"][4:]
    assert row["input_ids"][-1] == 0
    assert losses_of(run.folder)[-1] < losses_of(run.folder)[0]
    assert all("lora" in name for name in weights_of(run.folder))
    assert GenerationConfig.from_pretrained(run.folder).to_dict()["language"] == "zh"
    base = AutoModelForSpeechSeq2Seq.from_pretrained(hearing.whisper(several=True))
    PeftModel.from_pretrained(base, str(run.folder))
    task = task_of(run)
    assert task.probe(run, task.load(run, tuned=run.folder)) == pytest.approx(result["probe_loss"], rel=1e-3)
    rows = task.score(run, task.load(run, tuned=run.folder), held_out(run))
    assert set(summary(rows, task.formulas(run))) == {"loss", "cer"}


def test_what_cannot_be_heard_is_told_of(tmp_path: Path) -> None:
    lab = hearing.spoken(tmp_path)
    soundfile.write(tmp_path / "train0.wav", np.zeros(20_000), 8000)
    (tmp_path / "train1.wav").write_bytes(b"no sound")
    run = lab.run()
    with pytest.raises(TuneError, match=r"2\.5 s long, and the model hears 1 s"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    run = lab.run("data.on_error=skip")
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert len(SoundRows(run.stage_folder("prepare"))) == 46
    assert read_json(run.stage_folder("prepare") / "data.json")["skipped"]["rows"] == 2
    with pytest.raises(TuneError, match="knows English alone"):
        task_of(run).possible(lab.run("task.language=zh"))


def test_a_wav2vec2_learns_classes_and_loads_in_plain_peft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = hearing.sounds(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.num_train_epochs=25"]) == 0
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        found = read_json(folder / "metrics.json")
        assert found["tuned"]["accuracy"] > 0.9 > found["base"]["accuracy"]
        assert not any("feature_extractor" in name for name in weights_of(folder))
        labels = read_json(folder / "data.json")["labels"]
        named: dict[str, Any] = {"num_labels": 3, "id2label": dict(enumerate(labels))}
        base = AutoModelForAudioClassification.from_pretrained(hearing.wav2vec2(), **named)
        plain: Any = PeftModel.from_pretrained(base, str(folder)).eval()
        samples = wave(str(tmp_path / "eval1.wav"), 16_000)
        inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            assert labels[plain(**inputs).logits[0].argmax()] == "mid"
        assert "pipeline_tag: audio-classification" in (folder / "README.md").read_text(encoding="utf-8")
        heard = cards.printed(folder, {'"recording.wav"': heard_at(tmp_path / "eval2.wav")})
        assert heard.index("'high'") < heard.index("'low'")
        capsys.readouterr()
        assert cli.main(["try", "small", str(tmp_path / "eval2.wav"), "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["label"] == "high"


def test_whispers_encoder_tells_classes_apart(tmp_path: Path) -> None:
    """Its pretrained encoder is found under the speech model's names, and only the new layers are trained beside the adapter."""
    run = hearing.sounds(tmp_path, hearing.whisper()).run("trainer.num_train_epochs=4", "trainer.learning_rate=2e-3")
    train(run)
    assert losses_of(run.folder)[-1] < losses_of(run.folder)[0]
    whole = {name.split(".")[3] for name in weights_of(run.folder) if "lora" not in name}
    assert {name for name in whole if not name.startswith("lora")} <= {"projector", "classifier", "weight", "bias"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (Normalizer.none, "Mr. Nine, it's 20 colours!"),
        (Normalizer.basic, "mr nine it s 20 colours"),
        (Normalizer.english, "mister 9 it is 20 colors"),
    ],
)
def test_texts_are_made_alike_as_asked(name: Normalizer, said: str) -> None:
    assert normalizer(name, english=False, spellings={"colours": "colors"})("Mr. Nine,  it's 20 colours!") == said
    if name is not Normalizer.none:  # `auto` is one of the others, by the language
        english = name is Normalizer.english
        assert normalizer(Normalizer.auto, english=english, spellings={"colours": "colors"})("Mr. Nine, it's 20 colours!") == said


def test_a_translation_begins_otherwise(tmp_path: Path) -> None:
    lab = hearing.spoken(tmp_path, several=True)
    rows = []
    for translate in ("false", "true"):
        run = lab.run("task.language=chinese", f"task.translate={translate}")
        rows.append("".join(part["text"] for part in task_of(run).show(run, split(run)[0], 0)["segments"]))
    assert "transcribe" in rows[0]
    assert "translate" in rows[1]


def test_a_recording_is_cut_where_the_recipe_says(tmp_path: Path) -> None:
    lab, lengths = hearing.sounds(tmp_path), []
    for seconds in ("30", "0.2"):
        run = lab.run(f"task.max_seconds={seconds}")
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
        audited = read_json(run.stage_folder("prepare") / "audit.json")
        lengths.append(audited["rows_truncated"])
    assert lengths == [0, 48]
