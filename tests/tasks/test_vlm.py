"""`task: vlm`: what is learned of images and texts, masked, measured, shown, saved and refused, over a tiny LLaVA and a tiny Idefics3."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from tests.lab import Lab, by_two_and_by_one, losses_of, task_of, tiny_model, train, weights_of
from tests.tasks import cards, seeing
from tuner import cli, worker
from tuner.data.contamination import overlap
from tuner.data.images import opened
from tuner.data.seeing import Seeing
from tuner.data.seen import told
from tuner.data.shown import SeenRows, item
from tuner.data.splits import held_out, split
from tuner.data.turns import Misfit
from tuner.errors import GATE, TuneError
from tuner.model.generation import settings
from tuner.model.seen import answers, of_seen, row_losses
from tuner.model.targets import beside_language
from tuner.runs import read_json
from tuner.schema.vision import Vlm


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def prepared(lab: Lab, *options: str) -> SeenRows:
    run = lab.run(*options)
    folder = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], folder)
    return SeenRows(folder)


def plain_inputs(folder: Path, image: Path) -> tuple[Any, dict[str, Any]]:
    """The saved processor, and what it makes of an image and the question, as the card says."""
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    content = [{"type": "image", "image": Image.open(image).convert("RGB")}, {"type": "text", "text": "colour?"}]
    options: dict[str, Any] = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    return processor, dict(processor.apply_chat_template([{"role": "user", "content": content}], **options))


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A tiny model learns the colours of squares; what it is asked and what it saw is shown; plain Transformers answers alike."""
    lab = seeing.colours(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "adapter=full", "task.train_vision=true", "trainer.num_train_epochs=16") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["base"]["exact_match"] == 0.0
    assert found["tuned"]["exact_match"] >= 0.9
    assert set(found["tuned"]) == {"exact_match", "loss", "perplexity"}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: image-text-to-text" in card
    assert "AutoModelForImageTextToText.from_pretrained" in card
    assert "answers generated greedily" in card
    image, colour = next((tmp_path / "eval" / f"{i}.png", c) for i, c in enumerate(seeing.SHADES))
    assert cards.printed(folder, {"photo.jpg": str(image), '"text": "…"': '"text": "colour?"'}) == colour
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<img src="data:image/jpeg;base64,') == 10
    assert "colour?" in report
    capsys.readouterr()
    image = lab.folder / "eval" / "1.png"
    assert tune(lab, "try", "small", str(image), "colour?", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["tuned"] == "blue"
    processor, inputs = plain_inputs(folder, image)
    model = AutoModelForImageTextToText.from_pretrained(folder).eval()
    out = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    assert processor.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True) == "blue"
    assert tune(lab, "try", "small", str(lab.folder / "train.jsonl"), "colour?") == 2
    assert tune(lab, "try", "small", str(image), "colour?", "more?") == 2
    plan = str(lab.write_plan())
    capsys.readouterr()
    assert worker.main([plan, "--preview", "1"]) == 0
    looked = capsys.readouterr().out
    assert "<image>×4colour?" in looked
    assert "[[red<|im_end|>]]" in looked
    assert worker.main([plan, "--check"]) == 0
    assert "48 rows to train, 12 held out" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("model", [seeing.llava, seeing.idefics, seeing.gemma], ids=["llava", "idefics3", "gemma3"])
def test_lora_is_on_the_language_model_and_loads_in_plain_peft(model: Any, tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=16, held_out=4, model=model())
    run = lab.run("trainer.max_steps=4", "trainer.save_steps=0")
    train(run)
    names = weights_of(run.folder)
    assert names
    assert not any("vision" in name or "projector" in name or "connector" in name for name in names)
    assert losses_of(run.folder)[-1] < losses_of(run.folder)[0]
    ours: Any = task_of(run).load(run, tuned=run.folder)
    plain = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(model()), str(run.folder)).eval()
    _, inputs = plain_inputs(run.folder, lab.folder / "eval" / "0.png")
    with torch.no_grad():
        assert torch.allclose(plain(**inputs).logits, ours(**inputs).logits, atol=1e-6)
        assert not torch.allclose(plain(**inputs).logits, task_of(run).load(run)(**inputs).logits, atol=1e-4)
    shown = task_of(run).show(run, split(run)[0], 0)["segments"]
    assert [part["text"] for part in shown if part["trained"]] == ["red<|im_end|>"]
    assert len(shown[0]["text"]) < 150, "an image's tokens are not listed one by one"


def test_what_sees_is_trained_where_it_is_asked_for(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=8, held_out=4)
    lora, full, all_of_it = (
        {name for name, p in task_of(run).load(run, trainable=True).named_parameters() if p.requires_grad}
        for run in (lab.run("task.train_vision=true"), lab.run("adapter=full"), lab.run("adapter=full", "task.train_vision=true"))
    )
    assert any("vision_tower" in name for name in lora)
    assert any("projector" in name for name in lora)
    assert full
    assert all("language_model" in name for name in full), "the head is the embedding"
    assert any("vision_tower" in name for name in all_of_it)
    named = lab.run("adapter.target_modules=[q_proj]")
    found = [n for n, p in task_of(named).load(named, trainable=True).named_parameters() if p.requires_grad]
    assert found
    assert all("language_model" in name and "q_proj" in name for name in found)


@pytest.mark.parametrize("adapter", ["dora", "oft", "layernorm", "vera", "ia3"])
def test_other_adapters_are_on_the_language_model_or_refused(adapter: str, tmp_path: Path) -> None:
    more = {
        "oft": ["adapter.oft_block_size=8"],
        "ia3": ["adapter.target_modules=[k_proj,down_proj]", "adapter.feedforward_modules=[down_proj]"],
    }
    run = seeing.colours(tmp_path, rows=3, held_out=2).run(f"adapter={adapter}", *more.get(adapter, []))
    task = task_of(run)
    if adapter == "vera":
        with pytest.raises(TuneError, match="VeRA cannot leave out the part of the model that sees"):
            task.possible(run)
        run = Lab(tmp_path).run("adapter=vera", "task.train_vision=true")
    found = [name for name, p in task.load(run, trainable=True).named_parameters() if p.requires_grad]
    assert found
    assert any("vision" in name for name in found) is (adapter == "vera")


def test_the_mask_is_the_answers_and_never_an_image(tmp_path: Path) -> None:
    """Two turns, an image in each; the tokens of images carry no loss, even where all of the text does."""
    lab = seeing.colours(tmp_path, rows=2, held_out=2)
    talk = [
        {"role": "user", "content": [{"type": "image", "image": "train/0.png"}, {"type": "text", "text": "one?"}]},
        {"role": "assistant", "content": "red"},
        {
            "role": "user",
            "content": [{"type": "text", "text": "and"}, {"type": "image", "image": "train/1.png"}, {"type": "text", "text": "?"}],
        },
        {"role": "assistant", "content": "blue"},
    ]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": talk}) + "\n", encoding="utf-8")
    tokenizer = AutoProcessor.from_pretrained(seeing.llava(), backend="pil").tokenizer
    said = {}
    for loss_on in ("assistant", "last_assistant", "all"):
        row = prepared(lab, f"task.loss_on={loss_on}")[0]["rows"][0]
        assert len(row["images"]) == 2
        ids, labels = np.asarray(row["input_ids"]), np.asarray(row["labels"])
        mark = tokenizer.convert_tokens_to_ids("<image>")
        assert (ids == mark).sum() == 8
        assert (labels[ids == mark] == -100).all()
        assert (labels[labels != -100] == ids[labels != -100]).all()
        said[loss_on] = tokenizer.decode(ids[labels != -100].tolist())
    assert said["assistant"] == "red<|im_end|>blue<|im_end|>"
    assert said["last_assistant"] == "blue<|im_end|>"
    assert said["all"].startswith("<|im_start|>user\none?<|im_end|>\n<|im_start|>assistant\nred")


@pytest.mark.parametrize("model", [seeing.llava, seeing.idefics], ids=["llava", "idefics3"])
def test_a_batch_is_the_processor_s_and_its_loss_the_model_s(model: Any, tmp_path: Path) -> None:
    """Rows of other lengths and numbers of images; a row that is cut behind its images; a blank row beside it."""
    lab = seeing.colours(tmp_path, rows=3, held_out=2, model=model())
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[1] = {"images": ["train/1.png", "train/2.png"], "question": "both?", "answer": "blue green"}
    rows[2]["answer"] = "green " * 20
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = lab.run("task.max_length=80")
    task: Any = task_of(run)
    task.prepare(run, split(run)[0], run.stage_folder("prepare"))
    found, worker_of = SeenRows(run.stage_folder("prepare")), task.seeing_of(run)
    assert found.lengths.max() == 80
    wanted = of_seen(worker_of, found[0]["rows"][0])
    batch = wanted.collate([found[0], found[1], found[2], {"rows": wanted.blank}])
    blank = batch.pop("filler")
    assert blank == len(found[0]["rows"][0]["input_ids"])
    assert int(wanted.count(batch)) == int((batch["labels"] != -100).sum())
    assert (batch["labels"][3] == -100).all()
    model_here: Any = task.load(run)
    ours = wanted.loss(model_here, batch, 0.0) / wanted.count(batch)
    theirs = model_here(**batch).loss
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)
    alone = [wanted.collate([found[i]]) for i in range(3)]
    with torch.no_grad():
        losses = [float(wanted.loss(model_here, {k: v for k, v in one.items() if k != "filler"}, 0.0)) for one in alone]
        together = [total for total, _ in row_losses(model_here, worker_of, [found[i]["rows"][0] for i in range(3)])]
    assert together == pytest.approx(losses, rel=1e-4), "padding changes nothing"
    assert sum(losses) == pytest.approx(float(ours.detach() * wanted.count(batch)), rel=1e-4)


def test_images_of_any_size_as_qwen_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of a batch's images lie end to end; the loss is the model's own, and that of each row by itself; answers are written."""
    processor, model = seeing.qwen(monkeypatch)
    worker_of, chance, rows = Seeing(processor, Vlm()), random.Random(0), []
    for count, said in ((1, "red"), (2, "blue green again"), (1, "x")):
        seen = [seeing.picture(chance, "red") for _ in range(count)]
        talk = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": said}]
        text, (ids, trained), _ = worker_of.coded({"messages": told({"messages": talk, "images": seen})[0], "tools": None}, seen)
        assert processor.tokenizer.decode(ids[trained].tolist()) == f"{said}<|im_end|>"
        rows.append(item(ids, trained, text, [png(image) for image in seen]))
    wanted = of_seen(worker_of, rows[0])
    batch = wanted.collate([{"rows": [row]} for row in rows])
    assert batch.pop("filler") == 0
    assert int((batch["input_ids"] == processor.image_token_id).sum()) == int(batch["image_grid_thw"].prod(1).sum()) // 4
    assert len(set(batch["image_grid_thw"].prod(1).tolist())) > 1, "images of several sizes"
    assert "mm_token_type_ids" in batch
    with torch.no_grad():
        ours = float(wanted.loss(model, batch, 0.0))
        assert ours / int(wanted.count(batch)) == pytest.approx(float(model(**batch).loss), rel=1e-5)
    assert sum(total for total, _ in row_losses(model, worker_of, rows)) == pytest.approx(ours, rel=1e-4)
    assert not any("language_model" in name for name in beside_language(model)[0])
    asked = [[{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": text}]}] for text in ("a", "abcdef")]
    prompts = [(worker_of.prompt(messages), [seeing.picture(chance, "blue")]) for messages in asked]
    config = settings(processor.tokenizer, max_new_tokens=3)
    together = answers(model, worker_of, prompts, config, batch_size=2)
    assert together == [answers(model, worker_of, [one], config, batch_size=1)[0] for one in prompts]


def png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue()


def test_where_images_stand_beside_a_conversation() -> None:
    """A mark in a text, a place without an image, or before the first question; every image once."""
    asked, answered = {"role": "user", "content": "what?"}, {"role": "assistant", "content": "it"}
    parts = lambda m: [p.get("text", "▢") for p in m["content"]]  # noqa: E731
    messages, images = told({"messages": [asked, answered], "images": ["a", "b"]})
    assert (parts(messages[0]), images) == (["▢", "▢", "what?"], ["a", "b"])
    marked = {"role": "user", "content": "this <image> and <image>?"}
    messages, images = told({"messages": [marked, answered], "images": ["a", "b"]})
    assert (parts(messages[0]), images) == (["this ", "▢", " and ", "▢", "?"], ["a", "b"])
    placed = {"role": "user", "content": [{"type": "text", "text": "see"}, {"type": "image"}, {"type": "image", "path": "own"}]}
    messages, images = told({"messages": [placed, answered], "images": ["a"]})
    assert (parts(messages[0]), images) == (["see", "▢", "▢"], ["a", "own"])
    url = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x.png"}}]}
    assert told({"messages": [url, answered]})[1] == ["x.png"]
    for example, what in (
        ({"messages": [asked, answered]}, "there is no image"),
        ({"messages": [marked, answered], "images": ["a", "b", "c"]}, "3 images stand beside the conversation, and it has a place for 2"),
        ({"messages": [marked, answered], "images": ["a"]}, "more places for images than images"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, "neither a text nor an image"),
        ({"messages": [answered], "images": ["a"]}, "nobody asks"),
    ):
        with pytest.raises(Misfit, match=what):
            told(example)


FAULTS = {
    "an image that is not there": ({"image": "nowhere.png"}, "cannot be read"),
    "an image that is none": ({"image": "train.jsonl"}, "cannot be read"),
    "no image": ({"image": None}, "there is no image"),
    "an image elsewhere": ({"image": "https://example.org/a.png"}, "read from this machine only"),
    "a mark in the text": ({"question": "<image> colour? <image>"}, "more places for images than images"),
    "images that are too long": ({"image": None, "images": ["train/0.png"] * 40}, "its images take 160 tokens and end at token 166"),
}


@pytest.mark.parametrize(("change", "what"), FAULTS.values(), ids=FAULTS)
def test_a_faulty_row_is_named_or_passed_over(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=6, held_out=2)
    path = tmp_path / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    rows[2] |= change
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(TuneError, match=what) as caught:
        prepared(lab)
    assert [p.where for p in caught.value.problems] == [f"{path}:3"]
    found = prepared(lab, "data.on_error=skip")
    assert len(found) == 5
    left = [opened({"image": found[i]["rows"][0]["images"][0]}) for i in range(5)]
    kept = [opened({"image": str(tmp_path / "train" / f"{i}.png")}) for i in (0, 1, 3, 4, 5)]
    assert [a.tobytes() for a in left] == [b.tobytes() for b in kept], "each row has its own image"


def test_the_same_question_about_another_image_is_no_copy(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=4, held_out=2)

    def row(image: str, *, beside: bool) -> str:
        parts = [{"type": "image"} if beside else {"type": "image", "image": image}, {"type": "text", "text": "which colour is it?"}]
        talk = {"messages": [{"role": "user", "content": parts}, {"role": "assistant", "content": "red"}]}
        return json.dumps(talk | ({"images": [image]} if beside else {})) + "\n"

    for beside in (False, True):
        (tmp_path / "train.jsonl").write_text("".join(row(f"train/{i}.png", beside=beside) for i in range(4)), encoding="utf-8")
        (tmp_path / "eval.jsonl").write_text(row("train/1.png", beside=beside) * 1, encoding="utf-8")
        found = overlap(*split(lab.run()))
        assert found.identical == 1
        assert found.first[0]["row"].endswith("train.jsonl:2") or found.first[1]["row"].endswith("train.jsonl:2")


def test_large_images_are_made_smaller(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=3, held_out=2)
    Image.new("RGB", (80, 40), (220, 20, 20)).save(tmp_path / "train" / "0.png")
    row = prepared(lab, "task.max_pixels=512")[0]["rows"][0]
    image = opened({"image": row["images"][0]})
    assert image.size == (32, 16)
    assert image.getpixel((5, 5)) == (220, 20, 20)


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=20, held_out=4)
    options = ("trainer.num_train_epochs=2", "trainer.eval_steps=3")
    whole, cut = lab.run("name=whole", *options), lab.run("name=cut", *options)
    train(whole)
    train(cut)
    checkpoints = sorted((cut.folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    shutil.rmtree(checkpoints[-1])
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut", *options))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """21 rows, 8 a step: the last step of an epoch has five, and three of its places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.learning_rate=1e-3", "trainer.eval_steps=3")
    two, one = by_two_and_by_one(seeing.colours(tmp_path, rows=21, held_out=5), *more)
    assert two == pytest.approx(one, rel=1e-4)


def test_a_loaded_result_has_the_loss_that_was_saved(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=12, held_out=4)
    run = lab.run("trainer.max_steps=3")
    kept = train(run)
    task: Any = task_of(run)
    assert task.probe(run, task.load(run, tuned=run.folder)) == pytest.approx(kept["probe_loss"], abs=1e-5)
    scored = task.score(run, task.load(run, tuned=run.folder), held_out(run))
    assert [one.reference for one in scored] == ["red", "blue", "green", "red"]
    assert all(one.tokens == len(one.reference) + 1 for one in scored)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.overlong=split", "has no use for `data.overlong`"),
        ("data.streaming=true", "has no use for `data.streaming`"),
        ("adapter=prefix", "has no use for `adapter`"),
        ("trainer.padding_free=always", "has no use for `trainer.padding_free`"),
        ("model.add_tokens=[x]", "has no use for `model.add_tokens`"),
        ("eval.metrics=[tool_calls]", "`task=vlm` does not learn"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        seeing.colours(tmp_path, rows=3, held_out=2).plan(override)


def test_rows_of_texts_and_models_of_texts_are_refused(tmp_path: Path) -> None:
    lab = seeing.colours(tmp_path, rows=3, held_out=2)
    blind = lab.run(f"model.id={tiny_model()}")
    with pytest.raises(TuneError, match="makes no inputs of images and texts"):
        task_of(blind).possible(blind)
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n' * 3, encoding="utf-8")
    with pytest.raises(TuneError, match="learns from a question and its answer"):
        prepared(lab)
    row = {"image": "train/0.png", "question": "colour?", "answer": ""}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(TuneError, match="have an empty answer") as caught:
        prepared(lab)
    assert caught.value.code == GATE
