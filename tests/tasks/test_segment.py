"""`task: segment`: what is learned, measured, saved, shown and refused, over a tiny SegFormer and a tiny BEiT."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from peft import PeftModel
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score
from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation, SegformerImageProcessorPil

from tests.lab import Lab, by_two_and_by_one, losses_of, task_of, train, weights_of
from tests.tasks import areas, pictures
from tuner import cli, worker
from tuner.checks import RULES
from tuner.data.images import opened
from tuner.data.labels import NOTHING
from tuner.data.legend import Legend, mask_of
from tuner.data.segmented import SegmentRows
from tuner.data.segments import Segments, turned
from tuner.data.splits import split
from tuner.data.transforms.augment_image import STEPS
from tuner.errors import TuneError
from tuner.eval.scores import Scored, summary
from tuner.eval.segments import counted, formulas
from tuner.model.pictures import finished
from tuner.model.segments import calibrate, of_masks
from tuner.runs import read_json
from tuner.schema.compose import compose
from tuner.schema.transforms.reading import read_step


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def plain(base: Path, folder: Path) -> Any:
    """The adapter over the base, as the card says."""
    id2label = dict(enumerate(areas.NAMES))
    model = AutoModelForSemanticSegmentation.from_pretrained(base, id2label=id2label, ignore_mismatched_sizes=True)
    return PeftModel.from_pretrained(model, str(folder)).eval()


def picture(text: str) -> Image.Image:
    """The image of a `data:` address."""
    return Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2])))


def numbers(path: str | Path) -> Any:
    """The numbers of a mask's file."""
    with Image.open(path) as mask:
        assert mask.mode in ("L", "P")
        return np.asarray(mask)


def shape_of(path: str | Path) -> tuple[int, int]:
    """The size of an image's file."""
    with Image.open(path) as image:
        return image.size


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Learns to see shapes, measures as scikit-learn does over all pixels, shows masks, and loads in plain PEFT as its card says."""
    lab = areas.shapes(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=8") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["base"]["mean_iou"] < 0.5
    assert found["tuned"]["mean_iou"] > 0.8
    base, processor = areas.segformer(), AutoImageProcessor.from_pretrained(folder, backend="pil")
    model, said, true = plain(base, folder), [], []
    for index in range(8):
        mask = numbers(tmp_path / "masks" / f"eval{index}.png")
        inputs = processor(opened({"image": str(tmp_path / f"eval{index}.png")}), segmentation_maps=mask, return_tensors="pt")
        with torch.no_grad():
            logits = model(inputs["pixel_values"]).logits
        said.append(torch.nn.functional.interpolate(logits, size=(32, 32), mode="bilinear")[0].argmax(0).numpy())
        true.append(inputs["labels"][0].numpy())
    said_all, true_all = np.concatenate(said).ravel(), np.concatenate(true).ravel()
    each = jaccard_score(true_all, said_all, average=None)
    assert [found["tuned"][f"iou/{name}"] for name in areas.NAMES] == pytest.approx(each, abs=2e-3)
    assert found["tuned"]["mean_iou"] == pytest.approx(each.mean(), abs=2e-3)
    assert found["tuned"]["pixel_accuracy"] == pytest.approx(accuracy_score(true_all, said_all), abs=2e-3)

    rows = [json.loads(line) for path in folder.glob("eval/*/rows.jsonl") for line in path.read_text(encoding="utf-8").splitlines()]
    shown = picture(rows[3]["reference"])
    assert shown.mode == "P"
    assert np.array_equal(np.asarray(shown), true[3])
    assert np.mean(np.asarray(picture(rows[3]["tuned"])) != said[3]) < 0.01
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<img src="data:image/jpeg;base64,') == 8  # the photos
    assert report.count('<img src="data:image/png;base64,') == 24  # truth, base and tuned of each
    assert "IoU of each class" in report
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-segmentation" in card
    assert "| IoU of circle |" in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0]
    assert 'labels = ["background", "circle", "square"]' in code
    (lab.folder / "photo.jpg").write_bytes((tmp_path / "eval0.png").read_bytes())
    code = code.replace("PATH/TO/THIS/FOLDER", str(folder)).replace(f'"{base.name}"', f'"{base}"')
    with contextlib.chdir(lab.folder):
        exec(code, {})
    assert (lab.folder / "square.png").is_file()
    assert shape_of(lab.folder / "square.png") == shape_of(tmp_path / "eval0.png")

    capsys.readouterr()
    assert tune(lab, "try", "small", str(tmp_path / "eval0.png"), "--json") == 0
    tried = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (numbers(tried["mask"]) == numbers(tmp_path / "masks" / "eval0.png")).mean() > 0.85
    assert sum(tried["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert shape_of(tried["base"]) == shape_of(tried["tuned"]) == shape_of(tried["mask"])
    assert tried["base"] != tried["tuned"]
    assert tune(lab, "try", "small", str(lab.folder / "recipes" / "small.yaml")) == 2


def test_what_is_looked_at_before_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = areas.shapes(tmp_path)
    plan = str(lab.write_plan())
    assert worker.main([plan, "--preview", "1"]) == 0
    looked = capsys.readouterr().out
    assert "train0.png (32 × 32 pixels) → [[background " in looked
    assert "%" in looked
    assert worker.main([plan, "--check"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert "24 rows to train, 8 held out; images of 32 × 32 pixels" in checked
    assert "labels by pixel: background " in checked
    assert tune(lab, "recipe=small", "dry_run=true") == 0


@pytest.mark.parametrize("model", [areas.segformer, areas.beit], ids=["segformer", "beit"])
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_moved_and_what_was_saved(adapter: str, model: Callable[[], Path], tmp_path: Path) -> None:
    lab = areas.shapes(tmp_path, rows=16, held_out=4, model=model())
    run = lab.run(f"adapter={adapter}", "trainer.max_steps=3", "trainer.save_steps=0")
    before = {name: p.clone() for name, p in task_of(run).load(run).named_parameters()}
    train(run)
    ours: Any = task_of(run).load(run, tuned=run.folder)
    images = [opened({"image": str(tmp_path / f"eval{index}.png")}) for index in range(4)]
    inputs = AutoImageProcessor.from_pretrained(run.folder, backend="pil")(images, return_tensors="pt")
    theirs = plain(model(), run.folder) if adapter == "lora" else AutoModelForSemanticSegmentation.from_pretrained(run.folder).eval()
    assert theirs.config.id2label == dict(enumerate(areas.NAMES))
    with torch.no_grad():
        assert torch.allclose(theirs(**inputs).logits, ours(**inputs).logits, atol=1e-6)
        assert not torch.allclose(theirs(**inputs).logits, task_of(run).load(run)(**inputs).logits, atol=1e-3)
    if adapter == "lora":
        names = weights_of(run.folder)
        assert any("decode_head" in name for name in names)
        assert any("q_proj" in name and "lora_A" in name for name in names)
        heads = ("decode_head", "auxiliary_head", "fpn")
        kept = {name.removeprefix("base_model.model.").replace("base_layer.", ""): p for name, p in ours.named_parameters()}
        assert not [name for name, p in before.items() if not any(h in name for h in heads) and not torch.equal(kept[name], p)]
    else:
        still = {n for n, p in ours.named_parameters() if torch.equal(p, before[n]) and "k_proj.bias" not in n}  # on which no output hangs
        beyond = {n for n in before if n.startswith(("beit.layers.3.", "beit.layernorm."))}  # what comes after all that the head looks at
        assert still == beyond
        assert bool(beyond) == (model is areas.beit)
        assert any("come after all that the head looks at" in text for text in lab.told) == (model is areas.beit)


@pytest.mark.parametrize("model", [areas.segformer, areas.beit], ids=["segformer", "beit"])
def test_the_loss_is_transformers_own(model: Callable[[], Path], tmp_path: Path) -> None:
    """With the auxiliary head's while training; summed over labelled pixels, and rows without any change nothing."""
    lab = areas.shapes(tmp_path, rows=6, held_out=2, model=model(), masked=lambda mask: mask.point(lambda v: 255 if v == 1 else v))
    run = lab.run("adapter=full", "task.labels=[background,other,square]")
    task, folder = task_of(run), run.stage_folder("prepare")
    task.prepare(run, split(run)[0], folder)
    rows = SegmentRows(folder)
    objective = of_masks(AutoImageProcessor.from_pretrained(model(), backend="pil"), shape=rows.pixels.shape[1:])
    net: Any = task.load(run, trainable=True).train()
    assert calibrate(net, rows, objective, torch.device("cpu")) == any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    batch = objective.collate([rows[index] for index in range(4)])
    batch.pop("filler")
    labelled = int((batch["labels"] != 255).sum())
    assert 0 < labelled < batch["labels"].numel()
    assert int(objective.count(batch)) == labelled
    ours = objective.loss(net, batch, 0.0)
    net.train()
    for module in net.modules():
        module.train(not isinstance(module, torch.nn.BatchNorm2d))
    theirs = net(pixel_values=batch["pixel_values"], labels=batch["labels"]).loss
    assert ours.item() / labelled == pytest.approx(theirs.item(), rel=1e-5)
    with_blank = objective.collate([*(rows[index] for index in range(4)), {"rows": objective.blank}])
    assert with_blank.pop("filler") == 1
    assert objective.loss(net, with_blank, 0.0).item() == pytest.approx(ours.item(), rel=1e-5)
    alone = objective.collate([{"rows": objective.blank}])
    alone.pop("filler")
    nothing = objective.loss(net, alone, 0.0)
    assert nothing.item() == 0.0
    nothing.backward()  # over several processes each has gradients, if of nothing
    parts = [objective.loss(net, {name: value[i : i + 1] for name, value in batch.items()}, 0.0) for i in range(4)]
    assert sum(part.item() for part in parts) == pytest.approx(ours.item(), rel=1e-5)  # however a batch is cut
    net.eval()
    if model is areas.segformer:
        assert objective.loss(net, batch, 0.0).item() == pytest.approx(ours.item(), rel=1e-5)
    else:
        assert objective.loss(net, batch, 0.0).item() < 0.9 * ours.item()  # without the auxiliary head's


def test_new_batch_norms_see_images_once(tmp_path: Path) -> None:
    """A new head's have the mean over the first images, however many pass at once; a pretrained one's stay."""
    lab = areas.shapes(tmp_path, rows=12, held_out=2, model=areas.beit())
    run = lab.run("adapter=full", "trainer.max_steps=2", "trainer.save_steps=0")
    train(run)
    norms = {name: value for name, value in weights_of(run.folder, "model.safetensors").items() if name.endswith("running_mean")}
    assert norms
    assert all(value.any() for value in norms.values())
    again = lab.run("adapter=full", "trainer.max_steps=4", "trainer.save_steps=0", "name=longer")
    train(again)
    later = weights_of(again.folder, "model.safetensors")
    assert all(torch.equal(later[name], value) for name, value in norms.items())  # of the base, not of what was trained since


@pytest.mark.parametrize("model", [areas.segformer, areas.beit], ids=["segformer", "beit"])
def test_a_mask_stays_on_its_image(model: Callable[[], Path], tmp_path: Path) -> None:
    """What the processor makes of both still matches: each pixel's colour is that of its class; at most edges are blurred."""
    processor = AutoImageProcessor.from_pretrained(model(), backend="pil")
    chance = random.Random(5)
    legend = Legend(names=tuple(areas.NAMES), numbers=(0, 1, 2), ignored=(255,))
    with Segments(processor) as files:
        numbers = [files.add(image, legend.placed(np.asarray(mask))) for image, mask in (areas.drawing(chance) for _ in range(6))]
        rows = files.rows(numbers)
    for row in rows:
        pixels, mask = row.pixels().astype(int), row.mask()
        assert set(np.unique(mask)) <= {0, 1, 2}  # nothing between two numbers
        seen = np.where(pixels[0] - pixels[2] > 60, 1, np.where(pixels[2] - pixels[0] > 60, 2, 0))
        assert (seen == mask).mean() > 0.95
    assert all(
        np.allclose(finished(torch.tensor(row.pixels()), processor)[0], _whole(processor, 5, index), atol=1e-6)
        for index, row in enumerate(rows)
    )


def _whole(processor: Any, seed: int, index: int) -> Any:
    chance = random.Random(seed)
    image = [areas.drawing(chance)[0] for _ in range(index + 1)][-1]
    return processor(image, return_tensors="np")["pixel_values"][0][0]


def test_masks_are_turned_as_the_processor_turns_them() -> None:
    """SegFormer's own labels, also where 0 is none of them; and what is padded is not labelled."""
    mask = np.random.default_rng(0).integers(0, 4, (37, 51)).astype(np.uint8)
    mask[5, 5] = 255
    image = Image.new("RGB", (51, 37))
    for reduced in (False, True):
        processor = SegformerImageProcessorPil(size={"height": 32, "width": 24}, do_reduce_labels=reduced)
        theirs = processor(image, segmentation_maps=mask.copy(), return_tensors="np")["labels"][0]
        numbers = tuple(range(reduced, 4))
        legend = Legend(names=tuple(map(str, numbers)), numbers=numbers, ignored=(0, 255) if reduced else (255,))
        assert np.array_equal(turned(processor, legend.placed(mask)), theirs)
    processor = AutoImageProcessor.from_pretrained(areas.beit(), backend="pil", do_resize=False)
    small = turned(processor, np.ones((20, 20), np.uint8))
    assert small.shape == (32, 32)
    assert (small == 0).sum() == 400
    assert (small == NOTHING).sum() == 32 * 32 - 400


def test_measures_are_those_of_all_pixels() -> None:
    """Mean IoU and each class's, as scikit-learn's over labelled pixels; a class that is nowhere counts for nothing."""
    chance = np.random.default_rng(1)
    names, rows, said_all, true_all = ["a", "b", "c", "d"], [], [], []
    for _ in range(5):
        true, said = (chance.integers(0, 3, (20, 30)).astype(np.uint8) for _ in range(2))
        true[:4] = NOTHING
        there = true != NOTHING
        rows.append(Scored(prompt=[], reference="", tokens=int(there.sum()), loss_sum=7.0, counts=counted(said, true, names)))
        said_all.append(said[there])
        true_all.append(true[there])
    found = summary(rows, formulas(names, ["a", "b", "c"]))
    true_, said_ = np.concatenate(true_all), np.concatenate(said_all)
    each = jaccard_score(true_, said_, average=None)
    assert [found[f"iou/{name}"] for name in "abc"] == pytest.approx(each)
    assert found["mean_iou"] == pytest.approx(jaccard_score(true_, said_, average="macro"))
    assert found["pixel_accuracy"] == pytest.approx(accuracy_score(true_, said_))
    assert found["loss"] == pytest.approx(35 / true_.size)
    assert "iou/d" not in found


def test_masks_are_read_as_people_write_them(tmp_path: Path) -> None:
    """Greys, palettes, true and false, 16 bits, greys as colours, bytes of a Hub set, an image upside down as its camera says."""
    numbers = np.asarray([[0, 1, 2], [2, 1, 0]], np.uint8)
    grey, size = Image.fromarray(numbers), (3, 2)
    palette = grey.copy()
    palette.putpalette([10, 20, 30, 200, 0, 0, 0, 0, 200])
    written = {}
    for name, image in {"grey": grey, "palette": palette, "rgb": grey.convert("RGB")}.items():
        image.save(tmp_path / f"{name}.png")
        written[name] = str(tmp_path / f"{name}.png")
    Image.fromarray(numbers.astype(np.uint16) * 1000).save(tmp_path / "deep.png")
    for value in (*written.values(), grey, {"bytes": (tmp_path / "palette.png").read_bytes(), "path": None}):
        assert np.array_equal(mask_of({"mask": value}, size), numbers)
    assert np.array_equal(mask_of({"mask": str(tmp_path / "deep.png")}, size), numbers.astype(int) * 1000)
    assert np.array_equal(mask_of({"mask": Image.fromarray(numbers > 0)}, size), numbers > 0)


@pytest.mark.parametrize(
    ("names", "options"), [(("pixel_values", "label"), ()), (("photo", "seen"), ("data.columns={image:photo,mask:seen}",))]
)
def test_rows_of_a_hub_set_are_the_same(names: tuple[str, str], options: tuple[str, ...], tmp_path: Path) -> None:
    """Bytes in Parquet, under the names that sets give them; and what turns an image turns its mask there too."""
    lab = areas.shapes(tmp_path, rows=4, held_out=2)
    (tmp_path / "hub").mkdir()
    files = [(tmp_path / f"train{index}.png", tmp_path / "masks" / f"train{index}.png") for index in range(4)]
    rows = [{name: {"bytes": file.read_bytes(), "path": None} for name, file in zip(names, both, strict=True)} for both in files]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub" / "train.parquet")
    run, hub = lab.run(), lab.run(f"data.path={tmp_path}/hub/train.parquet", *options)
    flip = f"data.transforms=[{{augment_flip:{{column:{names[0]},mask:{names[1]}}}}}]"
    flipped = lab.run(f"data.path={tmp_path}/hub/train.parquet", *options, flip)
    made = []
    for one in (run, hub, flipped):
        task_of(one).prepare(one, split(one)[0], one.stage_folder("prepare"))
        made.append(SegmentRows(one.stage_folder("prepare")))
    assert np.array_equal(made[0].pixels, made[1].pixels)
    assert np.array_equal(made[0].masks, made[1].masks)
    assert (made[0].masks[..., ::-1] == made[2].masks).mean() > 0.97
    assert (made[0].masks == made[2].masks).mean() < 0.97


def _resized(mask: Image.Image) -> Image.Image:
    return mask.resize((20, 20))


def _painted(mask: Image.Image) -> Image.Image:
    return Image.merge("RGB", (mask.point(lambda v: v * 90), mask.point(lambda v: 200 - v), mask))


@pytest.mark.parametrize(
    ("masked", "told"),
    [
        (_resized, "the mask has 20 × 20 pixels, and its image "),
        (_painted, "the mask has colours"),
        (
            lambda mask: mask.point(lambda v: v + 7),
            "the mask has the class number 7 (",
        ),
    ],
    ids=["size", "colours", "number"],
)
def test_a_mask_that_is_none_is_told_with_its_row(masked: Any, told: str, tmp_path: Path) -> None:
    lab = areas.shapes(tmp_path, rows=4, held_out=2)
    with Image.open(tmp_path / "masks" / "train2.png") as mask:
        made = masked(mask)
    made.save(tmp_path / "masks" / "train2.png")
    with pytest.raises(TuneError, match=re.escape(told)) as caught:
        train(lab.run())
    assert caught.value.problems[0].where.endswith("train.jsonl:3")
    run = lab.run("data.on_error=skip", "trainer.max_steps=1", "trainer.save_steps=0", "eval.enabled=false", "hub=none")
    train(run)
    facts = read_json(run.stage_folder("prepare") / "data.json")
    assert facts["skipped"]["rows"] == 1
    assert facts["train"]["rows"] == len(SegmentRows(run.stage_folder("prepare"))) == 3


def test_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    lab = areas.shapes(tmp_path, rows=4, held_out=2)
    (tmp_path / "masks" / "train1.png").unlink()
    with pytest.raises(TuneError, match="the mask cannot be read") as caught:
        train(lab.run())
    assert caught.value.problems[0].where.endswith("train.jsonl:2")
    Image.new("L", (9, 9)).save(tmp_path / "masks" / "train1.jpg")
    lines = (tmp_path / "train.jsonl").read_text(encoding="utf-8").replace("masks/train1.png", "masks/train1.jpg")
    (tmp_path / "train.jsonl").write_text(lines, encoding="utf-8")
    with pytest.raises(TuneError, match="the mask is a JPEG"):
        train(lab.run())
    (tmp_path / "train.jsonl").write_text('{"image": "train0.png", "text": "cat"}\n' * 4, encoding="utf-8")
    with pytest.raises(TuneError, match=r"learns from rows of \{image: …, mask: …\}"):
        train(lab.run())


def test_masks_with_nothing_to_tell_apart_are_told(tmp_path: Path) -> None:
    """The usual one: an object's mask is 255, which is ignored by default."""
    lab = areas.shapes(tmp_path, rows=4, held_out=2, masked=lambda mask: mask.point(lambda v: 255 if v else 0))
    with pytest.raises(TuneError, match="every labelled pixel is `background`") as caught:
        train(lab.run("task.labels=[background,shape]"))
    assert "numbers: [0, 255], ignore: []" in caught.value.problems[0].fix
    both = ("task.labels=[background,shape]", "task.numbers=[0,255]", "task.ignore=[]")
    run = lab.run(*both, "trainer.max_steps=1", "trainer.save_steps=0", "eval.enabled=false", "hub=none")
    train(run)
    assert read_json(run.stage_folder("prepare") / "audit.json")["labels"].keys() == {"background", "shape"}


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        ((), {"background", "circle", "square"}),
        (("task.labels=[]",), {"0", "1", "2"}),
        (("task.labels=[circle,square]", "task.reduce_labels=true"), {"circle", "square"}),
        (("task.labels=[square,circle]", "task.numbers=[2,1]", "task.ignore=[0]"), {"circle", "square"}),
    ],
)
def test_what_numbers_mean(options: tuple[str, ...], labels: set[str], tmp_path: Path) -> None:
    """The same pixels have the same names, whichever way they are said; 0 is labelled or is not."""
    lab = areas.shapes(tmp_path, rows=6, held_out=2)
    run = lab.run(*options, "trainer.max_steps=1", "trainer.save_steps=0", "eval.enabled=false", "hub=none")
    train(run)
    found = read_json(run.stage_folder("prepare") / "audit.json")
    assert set(found["labels"]) == labels
    masks = [
        np.asarray(Image.open(tmp_path / "masks" / f"train{index}.png").resize((32, 32), Image.Resampling.NEAREST)) for index in range(6)
    ]
    for number, name in enumerate(areas.NAMES):
        for key in (name, str(number)):
            if key in labels:
                assert found["labels"][key] == sum((mask == number).sum() for mask in masks)
    assert found["not_labelled"] == 6 * 32 * 32 - sum(found["labels"].values())
    made = AutoImageProcessor.from_pretrained(run.folder, backend="pil")
    assert made.do_reduce_labels == ("task.reduce_labels=true" in options)
    assert any("unlike in those that the base learned from" in text for text in lab.told) == (not made.do_reduce_labels)


@pytest.mark.parametrize("step", ["augment_flip", "augment_rotate: 40", "augment_crop: {least: 0.5}"])
def test_a_mask_turns_with_its_image(step: str, tmp_path: Path) -> None:
    name, _, given = step.partition(": ")
    value = {"mask": "mask"} | ({"degrees": 40} if given == "40" else {"least": 0.5} if given else {})
    made, problems = read_step({name: value})
    assert not problems
    image, mask = areas.drawing(random.Random(3))
    image.save(tmp_path / "a.png")
    mask.save(tmp_path / "b.png")
    rows = [{"image": str(tmp_path / "a.png"), "mask": str(tmp_path / "b.png")}]
    ((_, row),) = STEPS[name](rows, made, random.Random(0))
    turned_image = np.asarray(Image.open(io.BytesIO(row["image"])).convert("RGB")).astype(int)
    turned_mask = mask_of(row, turned_image.shape[1::-1])
    assert not np.array_equal(turned_mask, np.asarray(mask))
    seen = np.where(turned_image[..., 0] - turned_image[..., 2] > 60, 1, np.where(turned_image[..., 2] - turned_image[..., 0] > 60, 2, 0))
    there = turned_mask != 255
    assert (seen == turned_mask)[there].mean() > 0.95
    assert there.all() == (name != "augment_rotate")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("task.labels=[a,b,a]", "names a label twice"),
        ("task.numbers=[1,2]", "`task.labels` names 3, and `task.numbers` has 2"),
        ("task.numbers=[1,1,2]", "has a number twice"),
        ("task.numbers=[1,2,70000]", "numbers in a mask are from 0 to 65535"),
        ("task.ignore=[0,255]", "0 is the number of a label"),
        ("task.numbers=[1,2,3] task.reduce_labels=true", "both say which number a label has"),
        (f"task.labels=[{','.join(f'l{i}' for i in range(256))}]", "at most 255 classes"),
        ("data.transforms=[augment_flip]", "`augment_flip` moves what is in an image"),
        ("data.overlong=drop", "has no use for `data.overlong`"),
        ("data.overlong=split", "has no use for `data.overlong`"),
        ("data.system=hello", "has no use for `data.system`"),
        ("data.streaming=true", "has no use for `data.streaming`"),
        ("model.chat_template=x", "has no use for `model.chat_template`"),
        ("model.add_tokens=[x]", "has no use for `model.add_tokens`"),
        ("eval.generate=false", "has no use for `eval.generate`"),
        ("eval.metrics=[json]", "has no use for `eval.metrics`"),
        ("trainer.label_smoothing_factor=0.1", "has no use for `trainer.label_smoothing_factor`"),
        ("trainer.neftune_noise_alpha=5", "has no use for `trainer.neftune_noise_alpha`"),
        ("trainer.padding_free=always", "has no use for `trainer.padding_free`"),
        ("task.max_length=64", "`task.max_length` does not exist for task=segment"),
        ("task.problem=regression", "`task.problem` does not exist for task=segment"),
        ("hardware=fsdp", "not made for `hardware=fsdp`"),
        ("adapter=prefix", "trains a head beside the adapter"),
    ],
)
def test_what_it_has_no_use_for_is_told(override: str, told: str, tmp_path: Path) -> None:
    lab = areas.shapes(tmp_path, rows=2, held_out=2)
    with pytest.raises(TuneError) as caught:
        compose(str(lab.folder / "recipes" / "small.yaml"), override.split(), rules=RULES)
    assert any(told in problem.what for problem in caught.value.problems), caught.value.problems


def test_a_processor_that_turns_no_masks_is_told(tmp_path: Path) -> None:
    lab = areas.shapes(tmp_path, rows=2, held_out=2, model=pictures.vit())
    with pytest.raises(TuneError, match="turns no masks"):
        train(lab.run())


@pytest.mark.slow
@pytest.mark.parametrize("model", [areas.segformer, areas.beit], ids=["segformer", "beit"])
def test_two_processes_train_as_one(model: Callable[[], Path], tmp_path: Path) -> None:
    """Also where the number of labelled pixels differs by row: half of the masks say little."""
    chance = random.Random(0)
    lab = areas.shapes(
        tmp_path, masked=lambda mask: mask.point(lambda v: 255 if v == 0 else v) if chance.random() < 0.5 else mask, model=model()
    )
    there, here = by_two_and_by_one(lab, "trainer.max_steps=4", "trainer.eval_steps=2", "trainer.save_steps=0")
    assert there == pytest.approx(here, rel=1e-4)
    assert len(losses_of(next((lab.folder / "outputs" / "one").iterdir()))) == 4
