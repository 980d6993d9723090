"""The lines of a card load a result whose base has a head of another size: a classifier of 7 classes that was tuned to tell 2 apart."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForAudioClassification, AutoModelForSequenceClassification, AutoModelForTokenClassification
from transformers.utils.logging import disable_progress_bar

from tests.lab import Lab
from tests.tasks import hearing, labs
from tests.tasks.test_classify import tune
from tuner.hub import card

SAY: dict[str, Any] = {"trainer.max_steps": 2, "eval": "none", "trainer.learning_rate": 1e-3, "trainer.save_steps": 0}


def printed(code: str, folder: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What the card's lines print, of the result in `folder`, with the person's copy of the base; its ffmpeg is not everywhere."""
    code = code.replace('"recording.wav"', '__import__("soundfile").read("recording.wav", dtype="float32")[0]')
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace(f'"{base.name}"', f'"{base}"')
    capsys.readouterr()
    exec(code, {})
    return capsys.readouterr().out


@pytest.mark.parametrize("of_hub", [False, True], ids=["a copy", "the Hub"])
@pytest.mark.parametrize(
    ("make", "source", "auto", "wanted"),
    [
        (labs.classes, labs.encoder, AutoModelForSequenceClassification, r"'label': '(good|bad)'"),
        (labs.tags, labs.encoder, AutoModelForTokenClassification, r"'entity_group': '(Ill|Mood)'|\[\]"),
        (hearing.sounds, hearing.wav2vec2, AutoModelForAudioClassification, r"'label': '(low|mid|high)'"),
    ],
    ids=["sequence", "token", "audio"],
)
def test_a_base_with_a_head_of_another_size(
    make: Callable[[Path], Lab],
    source: Callable[[], Path],
    auto: Any,
    wanted: str,
    of_hub: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    disable_progress_bar()
    lab, base = make(tmp_path / "lab"), tmp_path / "seven"
    for path in source().iterdir():
        (base / path.name).parent.mkdir(exist_ok=True)
        (base / path.name).write_bytes(path.read_bytes())
    config = AutoConfig.from_pretrained(source(), num_labels=7)
    auto.from_pretrained(source(), config=config).save_pretrained(base)
    assert tune(lab, "recipe=small", "launcher=inline", f"model.id={base}", *(f"{key}={value}" for key, value in SAY.items())) == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    if of_hub:  # whose id is written where the copy's name stands
        monkeypatch.setattr(card, "base_model", lambda run: str(base))
        card.write_card(folder)
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (lab.folder / "recording.wav").write_bytes(next(lab.folder.glob("*.wav"), lab.folder / "train.jsonl").read_bytes())
    with contextlib.chdir(lab.folder):
        assert re.search(wanted, printed(code.replace("…", "a good film"), folder, base, capsys))
