"""`task: classify_image`: what is learned, saved, measured, shown and refused, over a tiny ViT."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline

from tests.lab import Lab, task_of, train, weights_of
from tests.tasks import cards, pictures
from tuner import cli, worker
from tuner.data.images import Pixels, opened
from tuner.data.splits import held_out
from tuner.errors import TuneError
from tuner.model.pictures import finished
from tuner.model.processors import load_image_processor
from tuner.runs import read_json


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def plain(folder: Path) -> Any:
    """The adapter over the base, as the card says."""
    base = AutoModelForImageClassification.from_pretrained(pictures.vit(), id2label={0: "blue", 1: "red"}, ignore_mismatched_sizes=True)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Learns, measures as scikit-learn does, shows images, and loads in plain PEFT with the logits that ours has."""
    lab = pictures.colours(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=6") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["tuned"]["accuracy"] == found["tuned"]["f1_macro"] == 1.0
    rows = [json.loads(line) for path in folder.glob("eval/*/rows.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    true, base = [row["reference"] for row in rows], [row["base"] for row in rows]
    assert found["base"]["accuracy"] == pytest.approx(accuracy_score(true, base))
    assert found["base"]["f1_macro"] == pytest.approx(f1_score(true, base, average="macro"))
    assert read_json(folder / "audit.json")["labels"] == {"blue": 20, "red": 20}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-classification" in card
    assert 'labels = ["blue", "red"]' in card
    seen = cards.printed(folder, {"photo.jpg": str(lab.folder / "eval" / "red" / "0.png")})
    assert seen.index("'red'") < seen.index("'blue'")
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<img src="data:image/jpeg;base64,') == min(20, len(rows), report.count('<p class="question">')) > 0
    told = capsys.readouterr().out
    assert " rows/s" in told
    assert "tok/s" not in told
    image = lab.folder / "eval" / "red" / "0.png"
    assert tune(lab, "try", "small", str(image), "--json") == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])[0]
    assert first["label"] == "red"
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil")
    theirs = pipeline("image-classification", model=plain(folder).merge_and_unload(), image_processor=processor)(Image.open(image))
    assert theirs[0]["label"] == "red"
    assert theirs[0]["score"] == pytest.approx(first["score"], abs=1e-3)
    assert tune(lab, "try", "small", str(lab.folder / "recipes" / "small.yaml")) == 2
    plan = str(lab.write_plan())
    assert worker.main([plan, "--preview", "1"]) == 0
    looked = capsys.readouterr().out
    assert "1.png (16 × 16 pixels) → [[blue]]" in looked
    assert "tokens" not in looked
    assert worker.main([plan, "--check"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert "40 rows to train, 20 held out; images of 16 × 16 pixels" in checked
    assert "labels by image: blue 20, red 20" in checked
    assert tune(lab, "recipe=small", "dry_run=true") == 0


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_moved_and_what_was_saved(adapter: str, tmp_path: Path) -> None:
    lab = pictures.colours(tmp_path, rows=16, held_out=4)
    run = lab.run(f"adapter={adapter}", "trainer.max_steps=3", "trainer.save_steps=0")
    before = {name: p.clone() for name, p in task_of(run).load(run).named_parameters()}
    train(run)
    ours: Any = task_of(run).load(run, tuned=run.folder)
    images = [opened({"image": str(path)}) for path in sorted((lab.folder / "eval").glob("*/*.png"))]
    inputs = AutoImageProcessor.from_pretrained(run.folder, backend="pil")(images, return_tensors="pt")
    theirs = plain(run.folder) if adapter == "lora" else AutoModelForImageClassification.from_pretrained(run.folder).eval()
    with torch.no_grad():
        assert torch.allclose(theirs(**inputs).logits, ours(**inputs).logits, atol=1e-6)
        assert not torch.allclose(theirs(**inputs).logits, task_of(run).load(run)(**inputs).logits, atol=1e-4)
    if adapter == "lora":
        names = weights_of(run.folder)
        assert any("classifier" in name for name in names)
        assert any("query" in name or "q_proj" in name for name in names)
        kept = {name.removeprefix("base_model.model.").replace("base_layer.", ""): p for name, p in ours.named_parameters()}
        same = [name for name, p in before.items() if "classifier" not in name and torch.equal(kept[name], p)]
        assert len(same) == sum("classifier" not in name for name in before)
    else:
        assert all(
            not torch.equal(p, before[name]) for name, p in ours.named_parameters() if "key.bias" not in name and "k_proj.bias" not in name
        )


def test_pixels_are_those_of_the_processor(tmp_path: Path) -> None:
    lab = pictures.colours(tmp_path, rows=4, held_out=2)
    run = lab.run()
    processor = load_image_processor(run.recipe.model, progress=run.tell)
    image = opened({"image": str(lab.folder / "train" / "red" / "0.png")})
    with Pixels(processor) as pixels:
        (row,) = pixels.rows([pixels.add(image)], [0])
    assert np.allclose(finished(torch.tensor(row.pixels()), processor), processor(image, return_tensors="np")["pixel_values"][0], atol=1e-6)


def test_a_manifest_names_images_from_where_it_stands(tmp_path: Path) -> None:
    """And a damaged image is named, or left out where such rows are to be."""
    lab = pictures.colours(tmp_path, rows=8, held_out=4)
    lines = [json.dumps({"path": f"train/{c}/{i}.png", "label": c}) + "\n" for i, c in enumerate(["red", "blue"] * 4)]
    (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    run = lab.run(f"data.path={tmp_path}/rows.jsonl")
    train(run)
    assert len(task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))) == 4
    (tmp_path / "train" / "red" / "0.png").write_bytes(b"\x89PNG damaged")
    (tmp_path / "rows.jsonl").write_text("".join([*lines, lines[1]]), encoding="utf-8")
    with pytest.raises(TuneError, match="cannot be read") as caught:
        train(lab.run(f"data.path={tmp_path}/rows.jsonl"))
    assert caught.value.problems[0].where.endswith("rows.jsonl:1")
    run = lab.run(f"data.path={tmp_path}/rows.jsonl", "data.on_error=skip", "trainer.max_steps=1")
    train(run)
    assert read_json(run.stage_folder("prepare") / "data.json")["skipped"]["rows"] == 1


def test_texts_are_no_images(tmp_path: Path) -> None:
    lab = pictures.colours(tmp_path, rows=4, held_out=2)
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n' * 4, encoding="utf-8")
    with pytest.raises(TuneError, match="learns from images with labels"):
        train(lab.run(f"data.path={tmp_path}/rows.jsonl"))
