"""`tune preview` of every task, over the tiny sets of its own tests: a row, then what was counted of all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab import Lab, make_lab, task_of
from tests.tasks import areas, hearing, labs, painting, pictures, seeing, spotting
from tests.tasks import test_distil as distil
from tests.tasks import test_fill_mask as fill_mask
from tests.tasks import test_preference as preference
from tests.tasks import test_pretrain as pretrain
from tests.tasks import test_rewarded as rewarded
from tests.tasks import test_seq2seq as seq2seq
from tuner import worker
from tuner.data.splits import split
from tuner.runs import read_json
from tuner.schema.documents import list_options

LABS: dict[str, Callable[[Path], Lab]] = {
    "sft": make_lab,
    "distil": distil.lab_of,
    "pretrain": pretrain.lab_of,
    "fill_mask": fill_mask.lab_of,
    **dict.fromkeys(("dpo", "simpo", "cpo", "orpo", "reward"), preference.lab_of),
    "kto": lambda folder: preference.liked(preference.lab_of(folder)),
    **dict.fromkeys(("grpo", "rloo", "online_dpo"), rewarded.lab_of),
    "classify": labs.classes,
    "tag": labs.tags,
    "qa": labs.answers,
    "rerank": labs.passages,
    "embed": labs.related,
    **dict.fromkeys(("seq2seq", "translate", "summarize"), seq2seq.lab_of),
    "classify_image": pictures.colours,
    "segment": areas.shapes,
    "detect": spotting.shapes,
    "vlm": seeing.colours,
    "transcribe": hearing.spoken,
    "classify_audio": hearing.sounds,
    "diffusion": painting.shapes,
}


@pytest.mark.usefixtures("own_kinds")
@pytest.mark.parametrize("task", list_options("task"))
def test_every_task_shows_its_rows(task: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ("task.prefix=''",) if task == "seq2seq" else ()
    plan = LABS[task](tmp_path).write_plan(f"task={task}", *own)
    capsys.readouterr()
    assert worker.main([str(plan), "--preview", "1"]) == 0
    said = capsys.readouterr().out
    assert " to train, " in said
    assert "bug:" not in said


@pytest.mark.parametrize("make", [seeing.colours, hearing.spoken, hearing.sounds], ids=["vlm", "transcribe", "audio"])
def test_a_copy_has_the_same_text_and_the_same_image_or_recording(make: Callable[..., Lab], tmp_path: Path) -> None:
    """The same words about another image, or said in another recording, are no copy."""
    lab = make(tmp_path, rows=9, held_out=3)
    path = tmp_path / "train.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines, lines[4]]) + "\n", encoding="utf-8")
    run = lab.run()
    folder = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], folder)
    found = read_json(folder / "data.json")["train"]
    assert (found["rows"], found["duplicates"]) == (10, 1)
