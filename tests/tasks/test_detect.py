"""`task: detect`: what is learned of objects in images, measured, saved, shown and refused, over tiny detectors of four kinds."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from transformers import AutoImageProcessor, AutoModelForObjectDetection, pipeline

from tests.lab import Lab, by_two_and_by_one, losses_of, task_of, train, weights_of
from tests.tasks import pictures, spotting
from tuner import cli, worker
from tuner.data.boxed import BoxRows
from tuner.data.contamination import overlap
from tuner.data.images import opened
from tuner.data.splits import held_out, split
from tuner.errors import GATE, TuneError
from tuner.eval.scores import summary
from tuner.model.detection import collate, of_boxes, turned
from tuner.runs import read_json

LABELS = {0: "blue", 1: "red"}
each_model = pytest.mark.parametrize("kind", spotting.MODELS)


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def plain(folder: Path, model: Path) -> Any:
    """The adapter over the base, as the card says."""
    base = AutoModelForObjectDetection.from_pretrained(model, id2label=LABELS, ignore_mismatched_sizes=True)
    return PeftModel.from_pretrained(base, str(folder)).eval()


def prepared(lab: Lab, *options: str) -> tuple[Any, Any, BoxRows]:
    """A run, its task, and the rows that were prepared."""
    run = lab.run(*options)
    folder = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], folder)
    return run, task_of(run), BoxRows(folder)


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The loss falls; plain PEFT and Transformers find the same boxes, of which pycocotools measures the same precision."""
    lab = spotting.shapes(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.max_steps=30", "trainer.save_steps=0") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["tuned"]["loss"] < found["base"]["loss"] * 0.98
    assert found["intervals"]["loss"][1] < 0
    assert set(found["tuned"]) == {"map", "map_50", "loss"}
    truth = rows_of(tmp_path / "eval.jsonl")
    expected = sum(len(row["objects"]["bbox"]) for row in rows_of(tmp_path / "train.jsonl"))
    assert sum(read_json(folder / "audit.json")["labels"].values()) == expected
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: object-detection" in card
    assert 'labels = ["blue", "red"]' in card
    image = tmp_path / "eval" / "1.png"
    snippet = card.partition("```python\n")[2].partition("```")[0].replace("PATH/TO/THIS/FOLDER", str(folder))
    known: dict[str, Any] = {}
    exec(snippet.replace(spotting.yolos().name, str(spotting.yolos())).replace("photo.jpg", str(image)), known)
    model = known["model"]
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<svg class="boxed"') == 3 * len(truth)
    assert report.count("<rect class=") >= sum(len(row["objects"]["bbox"]) for row in truth)
    assert "images of up to " in report
    capsys.readouterr()
    assert tune(lab, "try", "small", str(image), "threshold=0.1", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    theirs = sorted(model(Image.open(image), threshold=0.1), key=lambda one: -one["score"])
    assert [(one["label"], one["box"]) for one in said["objects"]] == [(one["label"], one["box"]) for one in theirs]
    assert [one["score"] for one in said["objects"]] == pytest.approx([one["score"] for one in theirs], abs=1e-3)
    with Image.open(said["image"]) as drawn, Image.open(image) as given:
        assert drawn.size == given.size
        assert (drawn.tobytes() != given.tobytes()) == bool(theirs)
    assert tune(lab, "try", "small", str(image), "threshold=2") == 2
    assert tune(lab, "try", "small", str(lab.folder / "recipes" / "small.yaml")) == 2
    plan = str(lab.write_plan())
    assert worker.main([plan, "--preview", "1"]) == 0
    looked = capsys.readouterr().out
    assert "0.png (" in looked
    assert worker.main([plan, "--check"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert "24 rows to train, 6 held out; images of up to " in checked
    assert "labels by box: " in checked
    assert tune(lab, "recipe=small", "dry_run=true") == 0


def test_a_tiny_model_learns_and_its_precision_is_that_of_pycocotools(tmp_path: Path) -> None:
    """From nothing, in ten seconds; measured by pycocotools itself over what plain Transformers finds."""
    lab = spotting.shapes(tmp_path, rows=64, held_out=16, most=1, side=(24, 38))
    learning = ("trainer.batch_size=8", "trainer.learning_rate=3e-3", "trainer.num_train_epochs=12")
    run = lab.run("adapter=full", "trainer.save_steps=0", *learning)
    base = summary(task_of(run).score(run, task_of(run).load(run), held_out(run)), task_of(run).formulas(run))
    train(run)
    tuned = summary(task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run)), task_of(run).formulas(run))
    assert tuned["loss"] < base["loss"] * 0.8
    assert base["map_50"] < 0.05
    assert tuned["map_50"] > 0.1
    assert tuned["map"] < tuned["map_50"]
    theirs = pipeline(
        "object-detection", model=str(run.folder), image_processor=AutoImageProcessor.from_pretrained(run.folder, backend="pil")
    )
    assert theirs.model.config.id2label == LABELS
    truth, found = COCO(), COCO()
    images = [{"id": n} for n in range(16)]
    names = {name: number for number, name in LABELS.items()}
    truth.dataset = {"images": images, "categories": [{"id": 0}, {"id": 1}], "annotations": []}
    found.dataset = truth.dataset | {"annotations": []}
    for number, row in enumerate(rows_of(tmp_path / "eval.jsonl")):
        for box, name in zip(row["objects"]["bbox"], row["objects"]["category"], strict=True):
            known = {"id": len(truth.dataset["annotations"]) + 1, "image_id": number, "category_id": names[name], "iscrowd": 0}
            truth.dataset["annotations"].append(known | {"bbox": box, "area": box[2] * box[3]})
        with torch.no_grad():
            image = Image.open(tmp_path / row["image"])
            out = theirs.model(**theirs.image_processor(image, return_tensors="pt"))
        (one,) = theirs.image_processor.post_process_object_detection(out, threshold=0.0, target_sizes=[(image.height, image.width)])
        for score, label, (x, y, right, below) in zip(*(one[name].tolist() for name in ("scores", "labels", "boxes")), strict=True):
            known = {"id": len(found.dataset["annotations"]) + 1, "image_id": number, "category_id": label, "score": score}
            found.dataset["annotations"].append(known | {"bbox": [x, y, right - x, below - y], "area": (right - x) * (below - y)})
    truth.createIndex()
    found.createIndex()
    judge = COCOeval(truth, found, "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    assert (tuned["map"], tuned["map_50"]) == pytest.approx(judge.stats[:2].tolist(), abs=1e-4)


@each_model
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_moved_and_what_was_saved(adapter: str, kind: str, tmp_path: Path) -> None:
    model = spotting.MODELS[kind]()
    lab = spotting.shapes(tmp_path, rows=8, held_out=3, model=model)
    run = lab.run(f"adapter={adapter}", "trainer.max_steps=3", "trainer.save_steps=0", "trainer.num_train_epochs=2")
    before = {name: value.clone() for name, value in task_of(run).load(run).state_dict().items()}
    kept = train(run)
    ours: Any = task_of(run).load(run, tuned=run.folder)
    assert task_of(run).probe(run, ours) == pytest.approx(kept["probe_loss"], rel=1e-5)
    theirs = plain(run.folder, model) if adapter == "lora" else AutoModelForObjectDetection.from_pretrained(run.folder).eval()
    assert (theirs.get_base_model() if adapter == "lora" else theirs).config.id2label == LABELS
    inputs = AutoImageProcessor.from_pretrained(run.folder, backend="pil")(
        opened({"image": str(tmp_path / "eval/0.png")}), return_tensors="pt"
    )
    inputs = inputs if kind != "yolos" else {"pixel_values": inputs["pixel_values"]}
    with torch.no_grad():
        found, known, base = theirs(**inputs), ours(**inputs), task_of(run).load(run)(**inputs)
    assert torch.allclose(found.logits, known.logits, atol=1e-5)
    assert torch.allclose(found.pred_boxes, known.pred_boxes, atol=1e-5)
    assert not torch.allclose(found.logits, base.logits, atol=1e-4)
    if adapter == "lora":
        names = weights_of(run.folder)
        heads = ("class_embed", "bbox_embed", "enc_score_head") if kind == "rt_detr" else ("class", "bbox")
        assert all(any(head in name for name in names) for head in heads)
        after = {name.removeprefix("base_model.model.").replace("base_layer.", ""): value for name, value in ours.state_dict().items()}
        told = ("class", "bbox", "score_head")
        same = [name for name in before if not any(part in name for part in told)]
        assert same
        assert all(torch.equal(after[name], before[name]) for name in same), "batch norms too"
    else:
        after = ours.state_dict()
        moved = {name for name in before if not torch.equal(after[name], before[name])}
        assert {"class" in name or "bbox" in name for name in moved} == {True, False}
        assert not any("running" in name or "num_batches" in name for name in moved)


@each_model
def test_boxes_and_pixels_are_those_of_the_processor(kind: str, tmp_path: Path) -> None:
    """Each image as by itself, with its boxes; padded on the right and below."""
    lab = spotting.shapes(tmp_path, rows=4, held_out=2, model=spotting.MODELS[kind]())
    run, task, rows = prepared(lab, "task.labels=[blue,red]")
    processor = task.processor_of(run)
    batch = collate(processor, [rows[i] for i in range(4)], masked=True)
    for line, row in enumerate(rows_of(tmp_path / "train.jsonl")):
        objects = row["objects"]
        each = [
            {"bbox": box, "category_id": ["blue", "red"].index(name), "area": box[2] * box[3], "iscrowd": 0}
            for box, name in zip(objects["bbox"], objects["category"], strict=True)
        ]
        image = Image.open(tmp_path / row["image"])
        known = processor(image, annotations={"image_id": 7, "annotations": each}, return_tensors="pt")
        high, wide = known["pixel_values"].shape[-2:]
        assert torch.equal(batch["pixel_values"][line, :, :high, :wide], known["pixel_values"][0])
        assert int(batch["pixel_mask"][line].sum()) == high * wide
        assert torch.allclose(batch["labels"][line]["boxes"], known["labels"][0]["boxes"].float())
        assert batch["labels"][line]["class_labels"].tolist() == known["labels"][0]["class_labels"].tolist()
        for box, (x, y, w, h) in zip(batch["labels"][line]["boxes"].tolist(), objects["bbox"], strict=True):
            middle = [(x + w / 2) / image.width, (y + h / 2) / image.height, w / image.width, h / image.height]
            assert box == pytest.approx(middle, abs=1e-5)


@each_model
def test_the_loss_is_the_model_s_in_however_many_parts(kind: str, tmp_path: Path) -> None:
    """Of rows of which one has no object; and what is blank counts for nothing."""
    lab = spotting.shapes(tmp_path, rows=8, held_out=2, model=spotting.MODELS[kind]())
    run, task, rows = prepared(lab, "task.image_size=64")
    model: Any = task.load(run)
    wanted = of_boxes(task.processor_of(run), model, rows[0]["rows"][0])
    chosen = [rows[i] for i in range(8)]
    numbers = [len(one["rows"][0]["boxes"]) for one in chosen]
    assert 0 in numbers
    batch = wanted.collate(chosen)
    inputs = {name: value for name, value in batch.items() if name not in ("filler", "taught")}
    with torch.no_grad():
        theirs = float(model(**inputs).loss)
        whole = float((wanted.loss(model, batch, 0.0) / wanted.count(batch)).sum())
        alone = numbers.index(0)
        cuts = [[alone], [i for i in range(8) if i != alone][:2], [i for i in range(8) if i != alone][2:]]
        parts = [wanted.collate([*(chosen[i] for i in cut), {"rows": wanted.blank}]) for cut in cuts]
        parts.append(wanted.collate([{"rows": wanted.blank}]))
        sums = torch.stack([wanted.loss(model, part, 0.0) for part in parts])
        counts = torch.stack([wanted.count(part) for part in parts])
    assert whole == pytest.approx(theirs, rel=1e-5)
    assert float((sums.sum(0) / counts.sum(0)).sum()) == pytest.approx(theirs, rel=1e-5)
    assert [part["filler"] for part in parts] == [0, 0, 0, 1]
    assert sums[3].tolist() == counts[3].tolist() == [0.0] * len(counts[3])
    assert int(wanted.count(batch)[-1]) == sum(numbers)


def test_the_held_out_loss_is_the_same_while_training_and_after(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=8, held_out=5)
    run = lab.run("trainer.max_steps=2", "trainer.eval_steps=2")
    train(run)
    scored = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    logged = [json.loads(line) for line in (run.folder / "train_log.jsonl").read_text(encoding="utf-8").splitlines()]
    measured = [entry["eval_loss"] for entry in logged if "eval_loss" in entry]
    assert summary(scored, task_of(run).formulas(run))["loss"] == pytest.approx(measured[-1], rel=1e-4)


def test_objects_as_a_list_as_numbers_and_in_a_file_of_coco(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=8, held_out=2)
    rows = rows_of(tmp_path / "train.jsonl")
    expected = prepared(lab)[2]
    numbers = {"blue": 0, "red": 1}
    pairs = [list(zip(row["objects"]["bbox"], row["objects"]["category"], strict=True)) for row in rows]
    listed = [
        row | {"objects": [{"bbox": box, "label": numbers[name]} for box, name in each]} for row, each in zip(rows, pairs, strict=True)
    ]
    write(tmp_path / "listed.jsonl", listed)
    coco = {
        "info": {},
        "licenses": [],
        "images": [{"id": 100 + i, "file_name": row["image"], "width": 1, "height": 1} for i, row in enumerate(rows)],
        "annotations": [
            {"id": 1, "image_id": 100 + i, "category_id": 7 + numbers[name], "bbox": box, "area": 1, "iscrowd": 0}
            for i, each in enumerate(pairs)
            for box, name in each
        ],
        "categories": [{"id": 7, "name": "blue"}, {"id": 8, "name": "red"}],
    }
    crowd = {"id": 2, "image_id": 100, "category_id": 7, "bbox": [0, 0, 5, 5], "area": 25, "iscrowd": 1}
    coco["annotations"] = [*coco["annotations"], crowd]  # type: ignore[misc]
    (tmp_path / "coco.json").write_text(json.dumps(coco), encoding="utf-8")
    for name in ("listed.jsonl", "coco.json"):
        found = prepared(lab, f"data.path={tmp_path / name}", "task.labels=[blue,red]")[2]
        assert len(found) == 8
        assert [found[i] for i in range(8)] == [expected[i] for i in range(8)], "the crowd is not learned"
    unnamed = coco | {"categories": coco["categories"][1:]}
    (tmp_path / "unnamed.json").write_text(json.dumps(unnamed), encoding="utf-8")
    with pytest.raises(TuneError, match="object 1: the label `7` is none of 2: blue, red") as caught:
        prepared(lab, f"data.path={tmp_path / 'unnamed.json'}", "task.labels=[blue,red]")
    assert "unnamed.json, row " in caught.value.problems[0].where


BOX = {"bbox": [[5, 5, 10, 10]], "category": ["red"]}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a box outside": ({"objects": BOX | {"bbox": [[35, 5, 40, 10]]}}, "object 1: its box .* reaches beyond the image, which has"),
    "corners": ({"objects": BOX | {"bbox": [[20, 20, 38, 38]]}}, "are these two corners"),
    "shares": ({"objects": BOX | {"bbox": [[0.1, 0.1, 0.5, 0.5]]}}, "are these shares of the image"),
    "no width": ({"objects": BOX | {"bbox": [[5, 5, 0, 10]]}}, "has no width"),
    "no height": ({"objects": BOX | {"bbox": [[5, 5, 10, -1]]}}, "has no height"),
    "three numbers": ({"objects": BOX | {"bbox": [[5, 5, 10]]}}, "`bbox` is not four numbers"),
    "words": ({"objects": BOX | {"bbox": [["a", 5, 10, 10]]}}, "`bbox` is not four numbers"),
    "no number": ({"objects": BOX | {"bbox": [[float("nan"), 5, 10, 10]]}}, "`bbox` is not four numbers"),
    "no category": ({"objects": {"bbox": [[5, 5, 10, 10]], "category": []}}, "1 boxes, but 0 categories"),
    "an empty category": ({"objects": BOX | {"category": [None]}}, "object 1: the label is empty"),
    "a category without a label": ({"objects": BOX | {"category": ["green"]}}, "object 1: the label `green` is none of 2: blue, red"),
    "an object that is none": ({"objects": ["red"]}, "an object is a mapping"),
    "objects that are none": ({"objects": 3}, "neither a mapping of lists nor a list"),
    "an image that is not there": ({"image": "nowhere.png"}, "the image cannot be read"),
    "an image that is none": ({"image": "train.jsonl"}, "the image cannot be read"),
    "no image": ({"image": None}, "the image cannot be read|no image"),
}


@pytest.mark.parametrize(("change", "what"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_row_is_named_or_passed_over(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=6, held_out=2)
    path = tmp_path / "train.jsonl"
    rows = rows_of(path)
    rows[2] |= change
    write(path, rows)
    with pytest.raises(TuneError, match=what) as caught:
        prepared(lab, "task.labels=[blue,red]")
    assert [problem.where for problem in caught.value.problems] == [f"{path}:3"]
    found = prepared(lab, "task.labels=[blue,red]", "data.on_error=skip")[2]
    assert len(found) == 5
    kept = [rows[i] for i in (0, 1, 3, 4, 5)]
    assert [found[i]["rows"][0]["boxes"] for i in range(5)] == [row["objects"]["bbox"] for row in kept]
    left = [opened({"image": found[i]["rows"][0]["image"]}).tobytes() for i in range(5)]
    assert left == [opened({"image": str(tmp_path / row["image"])}).tobytes() for row in kept], "each row has its own image"


def test_a_box_may_reach_a_pixel_beyond_and_images_are_turned_upright(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=3, held_out=2)
    image = Image.new("RGB", (40, 60), (220, 20, 20))
    exif = image.getexif()
    exif[0x0112] = 6  # lies on its side: it is seen as 60 wide and 40 high
    image.save(tmp_path / "train" / "0.jpg", exif=exif)
    rows = rows_of(tmp_path / "train.jsonl")
    rows[0] = {"image": "train/0.jpg", "objects": {"bbox": [[30, 10, 30.6, 30.6]], "category": ["red"]}}
    write(tmp_path / "train.jsonl", rows)
    run, task, found = prepared(lab, "task.labels=[blue,red]")
    assert task.show(run, split(run)[0], 0)["segments"][0]["text"] == "0.jpg (60 × 40 pixels) → "
    one = turned(task.processor_of(run), opened({"image": found[0]["rows"][0]["image"]}), [[30, 10, 30, 30]], [1])
    assert one["boxes"].tolist() == [pytest.approx([0.75, 0.625, 0.5, 0.75])]


def test_images_without_any_object_teach_nothing(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=3, held_out=2)
    write(tmp_path / "train.jsonl", [row | {"objects": []} for row in rows_of(tmp_path / "train.jsonl")])
    with pytest.raises(TuneError, match="no object is on any of 3 images") as caught:
        prepared(lab, "task.labels=[blue,red]")
    assert caught.value.code == GATE
    write(tmp_path / "eval.jsonl", [row | {"objects": None} for row in rows_of(tmp_path / "eval.jsonl")])
    run = lab.run("task.labels=[blue,red]")
    with pytest.raises(TuneError, match="no object is on any of 2 held-out images"):
        task_of(run).check(run, held_out(run))


def test_the_same_objects_on_another_image_are_no_copy(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=4, held_out=2)
    rows = [row | {"objects": BOX} for row in rows_of(tmp_path / "train.jsonl")]
    write(tmp_path / "train.jsonl", rows)
    write(tmp_path / "eval.jsonl", [rows[1], rows_of(tmp_path / "eval.jsonl")[0] | {"objects": BOX}])
    found = overlap(*split(lab.run()))
    assert found.rows == [1]


def test_a_size_that_is_said_is_that_of_the_batch_and_of_the_saved_processor(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=4, held_out=2, model=spotting.detr())
    losses = []
    for size in (32, 64):
        run = lab.run(f"task.image_size={size}", f"name=of-{size}", "trainer.max_steps=1", "trainer.save_steps=0")
        train(run)
        rows = BoxRows(run.stage_folder("prepare"))
        saved = AutoImageProcessor.from_pretrained(run.folder, backend="pil")
        batch = collate(task_of(run).processor_of(run), [rows[0], rows[1]], masked=True)  # type: ignore[attr-defined]
        assert batch["pixel_values"].shape == (2, 3, size, size)
        assert saved(Image.open(tmp_path / "train/0.png"), return_tensors="pt")["pixel_values"].shape[-2:] == (size, size)
        losses.append(losses_of(run.folder)[0])
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("trainer.label_smoothing_factor=0.1", "has no use for `trainer.label_smoothing_factor`"),
        ("trainer.neftune_noise_alpha=5", "has no use for `trainer.neftune_noise_alpha`"),
        ("eval.generate=false", "has no use for `eval.generate`"),
        ("eval.max_new_tokens=5", "has no use for `eval.max_new_tokens`"),
        ("eval.metrics=[json]", "has no use for `eval.metrics`"),
        ("data.overlong=split", "has no use for `data.overlong`"),
        ("data.overlong=drop", "has no use for `data.overlong=drop`"),
        ("data.streaming=true", "has no use for `data.streaming`"),
        ("data.system=x", "has no use for `data.system`"),
        ("trainer.padding_free=always", "has no use for `trainer.padding_free`"),
        ("trainer.torch_compile=true", "has no use for `trainer.torch_compile`"),
        ("model.add_tokens=[x]", "has no use for `model.add_tokens`"),
        ("adapter=prefix", "is only known to us for models that write"),
        ("adapter=qlora", "is not made for a base that is quantised"),
        ("data.transforms=[augment_flip]", "`augment_flip` would move what is on an image"),
        ("data.transforms=[{augment_crop:0.5}]", "`augment_crop` would move what is on an image"),
        ("task.image_size=65", "take a multiple of 32|halve an image"),
        ("task.max_length=8", "`task.max_length` does not exist for task=detect"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        spotting.shapes(tmp_path, rows=3, held_out=2).plan(override)


def test_colours_may_change_where_nothing_moves(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=3, held_out=2)
    found = prepared(lab, "data.transforms=[{augment_colour:{chance:1.0}}]")[2]
    before = prepared(lab)[2]
    assert [found[i]["rows"][0]["boxes"] for i in range(3)] == [before[i]["rows"][0]["boxes"] for i in range(3)]
    assert [found[i]["rows"][0]["image"] for i in range(3)] != [before[i]["rows"][0]["image"] for i in range(3)]


def test_other_models_and_other_rows_are_refused(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=3, held_out=2)
    other = lab.run(f"model.id={pictures.vit()}")
    with pytest.raises(TuneError, match="turns no boxes with its images"):
        task_of(other).possible(other)
    twice = lab.run(f"model.id={spotting.deformable()}")
    with pytest.raises(TuneError, match="in two places, and an adapter would train a copy in one of them"):
        task_of(twice).possible(twice)
    whole = lab.run(f"model.id={spotting.deformable()}", "adapter=full")
    task_of(whole).possible(whole)
    write(tmp_path / "train.jsonl", [{"image": "train/0.png", "label": "red"}] * 3)
    with pytest.raises(TuneError, match="learns from images with objects"):
        prepared(lab)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=20, held_out=4)
    whole, cut = lab.run("name=whole"), lab.run("name=cut")
    train(whole)
    train(cut)
    checkpoints = sorted((cut.folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    shutil.rmtree(checkpoints[-1])
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut"))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
@each_model
def test_two_processes_train_as_one(kind: str, tmp_path: Path) -> None:
    """21 rows, 8 a step: the last step of an epoch has five, and three of its places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.eval_steps=3", "trainer.batch_size=8", "task.image_size=64")
    lab = spotting.shapes(tmp_path, rows=21, held_out=5, model=spotting.MODELS[kind]())
    two, one = by_two_and_by_one(lab, *more)
    assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.slow
def test_two_processes_denoise(tmp_path: Path) -> None:
    """What RT-DETR learns of noisy boxes takes no part where a process has an image without objects, and nobody waits for it."""
    lab = spotting.shapes(tmp_path, rows=12, held_out=5, model=spotting.rt_detr(denoising=8))
    two, one = by_two_and_by_one(lab, "trainer.save_steps=0", "trainer.batch_size=4", "hardware.micro_batch_size=1")
    assert len(two) == len(one) == 3
    assert two == pytest.approx(one, rel=0.2), "noise is drawn by each for itself"


def test_noise_is_learned_of_boxes_alone(tmp_path: Path) -> None:
    lab = spotting.shapes(tmp_path, rows=8, held_out=2, model=spotting.rt_detr(denoising=8))
    rows = rows_of(tmp_path / "train.jsonl")
    write(tmp_path / "train.jsonl", [rows[0] | {"objects": []}] * 7 + [rows[0] | {"objects": BOX}])
    run = lab.run("trainer.num_train_epochs=2", "trainer.batch_size=4", "hardware.micro_batch_size=2", "trainer.save_steps=0")
    train(run)
    assert len(losses_of(run.folder)) == 4
