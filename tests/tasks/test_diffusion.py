"""`task: diffusion`: what is learned, painted, saved, measured, shown and refused, over tiny pipelines."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.lab import Lab, by_two_and_by_one, losses_of, task_of, train, weights_of
from tests.tasks import painting
from tuner import cli, worker
from tuner.context import Run
from tuner.data.painted import PaintedRows
from tuner.data.splits import held_out, split
from tuner.errors import TuneError
from tuner.eval.scores import summary
from tuner.model.denoising import Denoising, collate
from tuner.model.diffusion import LORA_FILE
from tuner.runs import read_json
from tuner.train.painting import learned

# Its EulerDiscreteScheduler turns a tensor into an array as NumPy 1 did: https://github.com/huggingface/diffusers/issues/10949
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SHORT = ("trainer.max_steps=3", "trainer.save_steps=0")


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def pixels(path: Path | str) -> np.ndarray[Any, Any]:
    """An image file's numbers [height, width, 3]."""
    with Image.open(path) as image:
        return np.asarray(image, np.int16)


def painted(pipeline: Any, prompt: str, *, number: int = 0, steps: int = 4) -> np.ndarray[Any, Any]:
    """What a plain pipeline paints."""
    chance = torch.Generator().manual_seed(number)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(prompt, num_inference_steps=steps, height=painting.SIZE, width=painting.SIZE, generator=chance)
    return np.asarray(made.images[0], np.int16)


def plain(model: Path, folder: Path, adapter: str = "lora") -> Any:
    """The base's pipeline with a result, as the card says."""
    index = json.loads((model / "model_index.json").read_text(encoding="utf-8"))
    none = {name: None for name in ("text_encoder_3", "tokenizer_3") if name in index}
    if adapter == "full":
        name = "transformer" if "transformer" in index else "unet"
        none[name] = diffusers.AutoModel.from_pretrained(str(folder), subfolder=name)
    pipeline = diffusers.DiffusionPipeline.from_pretrained(model, **none)
    if adapter == "lora":
        pipeline.load_lora_weights(folder, weight_name=LORA_FILE)
    return pipeline


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Learns, paints before and after, and the plain pipeline paints the same; the card's lines work."""
    lab = painting.shapes(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=8") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert found["tuned"]["loss"] < 0.95 * found["base"]["loss"]
    assert found["verdicts"]["loss"] == "better"
    grid = pixels(folder / "samples.png")
    assert grid.shape == (2 * painting.SIZE, 2 * painting.SIZE, 3)
    above, below = (grid[part] for part in (slice(painting.SIZE), slice(painting.SIZE, None)))
    assert np.abs(above - below).mean() > 1
    (shown,) = [read_json(path) for path in folder.glob("eval/*/samples.json")]
    assert [one["prompt"] for one in shown] == ["a red circle", "a blue circle"]
    ours, base = painted(plain(painting.sd(), folder), "a red circle"), painted(plain(painting.sd(), folder, "none"), "a red circle")
    assert np.abs(ours - below[:, : painting.SIZE]).max() <= 1
    assert np.abs(base - above[:, : painting.SIZE]).max() <= 1
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert report.count('<img src="data:image/jpeg;base64,') == 4
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-to-image" in card
    assert "library_name: diffusers" in card
    lines = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert lines
    snippet = lines[1].replace(painting.sd().name, str(painting.sd())).replace("PATH/TO/THIS/FOLDER", str(folder / "published"))
    with contextlib.chdir(tmp_path):
        exec(snippet, {})
    assert pixels(tmp_path / "painted.png").shape == (painting.SIZE, painting.SIZE, 3)
    capsys.readouterr()
    assert tune(lab, "try", "small", "a red circle", "--json") == 0
    files = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert np.abs(pixels(files["tuned"]) - ours).max() <= 1
    assert np.abs(pixels(files["base"]) - base).max() <= 1
    plan = str(lab.write_plan())
    assert worker.main([plan, "--preview", "1"]) == 0
    looked = capsys.readouterr().out
    assert "a red circle → [[0.png (32 × 32 pixels)]]" in looked
    assert "tokens" not in looked
    assert worker.main([plan, "--check"]) == 0
    checked = " ".join(capsys.readouterr().out.split())
    assert "24 rows to train, 4 held out; images of 32 × 32 pixels" in checked
    assert "captions 4 different captions" in checked
    assert tune(lab, "recipe=small", "dry_run=true") == 0
    assert tune(lab, "plan", "memory", "recipe=small") == 2


@pytest.mark.parametrize(
    ("model", "adapter", "rate"),
    [
        (lambda: painting.sd("v_prediction"), "lora", "5e-3"),
        (painting.sd, "full", "1e-3"),
        (painting.sdxl, "lora", "5e-3"),
        (painting.sd3, "lora", "1e-2"),
        (painting.sd3, "full", "1e-3"),
        (painting.flux, "lora", "1e-2"),
    ],
    ids=["v-lora", "sd-full", "sdxl-lora", "sd3-lora", "sd3-full", "flux-lora"],
)
def test_every_kind_learns_and_loads_in_the_plain_pipeline(model: Callable[[], Path], adapter: str, rate: str, tmp_path: Path) -> None:
    """Held-out loss falls, what is frozen stays, and the plain pipeline paints what ours does."""
    lab = painting.shapes(tmp_path, model())
    run = lab.run(
        f"adapter={adapter}",
        "trainer.num_train_epochs=4",
        "trainer.save_steps=0",
        f"trainer.learning_rate={rate}",
        "task.samples=1",
        "task.resolution=32",
    )
    task = task_of(run)
    base = task.load(run)
    before = summary(task.score(run, base, held_out(run)), task.formulas(run))["loss"]
    start = {name: p.detach().clone() for name, p in base.named_parameters()}
    result = train(run)
    tuned = task.load(run, tuned=run.folder)
    assert task.probe(run, tuned) == pytest.approx(result["probe_loss"], rel=1e-4)
    after = summary(task.score(run, tuned, held_out(run)), task.formulas(run))["loss"]
    assert after < 0.985 * before
    end = {name.replace("base_layer.", ""): p for name, p in tuned.named_parameters() if "lora" not in name}
    moved = {name for name, p in start.items() if not torch.equal(p, end[name])}
    assert moved == set() if adapter == "lora" else len(moved) > 0.9 * len(start)
    assert adapter == "full" or all(name.startswith(("unet.", "transformer.")) for name in weights_of(run.folder, LORA_FILE))
    ours = pixels(run.stage_folder("evaluate") / "sample-0.png")
    assert np.abs(painted(plain(model(), run.folder, adapter), "a red circle") - ours).max() <= 1


class Watched(nn.Module):
    """A model that says nothing, and notes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.given: list[dict[str, Any]] = []

    def forward(self, **inputs: Any) -> Any:
        """Zeros."""
        self.given.append(inputs)
        return (torch.zeros_like(inputs.get("sample", inputs.get("hidden_states"))),)


def prepared(lab: Lab, *overrides: str) -> tuple[Run, PaintedRows, dict[str, Any]]:
    """A run with prepared rows, and a batch of them whose latents are as sure as can be."""
    run = lab.run(*overrides)
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    rows = PaintedRows(run.stage_folder("prepare"))
    batch = collate([rows[index] for index in range(8)])
    batch["latents"][:, 1] = 0
    return run, rows, batch


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow", "packed"])
def test_the_loss_is_that_of_diffusers_schedulers(kind: str, tmp_path: Path) -> None:
    """Against add_noise, get_velocity and scale_noise; min-SNR by its own formula."""
    models = {"flow": painting.sd3, "packed": painting.flux}
    lab = painting.shapes(tmp_path, models[kind]() if kind in models else painting.sd(kind))
    run, rows, batch = prepared(lab, "task.caption_dropout=0", "task.resolution=32")
    wanted, model = learned(run, rows), Watched().train()
    clean, scheduler = batch["latents"][:, 0], wanted.scheduler
    wanted.step = 3
    losses = wanted.losses(model, batch)
    (given,) = model.given
    time, noisy = given["timestep"], given.get("sample", given.get("hidden_states"))
    if kind == "packed":  # as the pipeline packs, tells places, and counts time
        assert given["guidance"].tolist() == [1.0] * 8
        assert given["txt_ids"].shape == (batch["prompt"].shape[1], 3)
        assert given["img_ids"].tolist() == [[0, line, column] for line in range(8) for column in range(8)]
        time, noisy = time * 1000, diffusers.FluxPipeline._unpack_latents(noisy, 32, 32, 2)
    if kind in models:
        sigma = (time / 1000).reshape(-1, 1, 1, 1)
        noise = (noisy - (1 - sigma) * clean) / sigma
        assert torch.allclose(scheduler.scale_noise(clean, time, noise), noisy, atol=1e-5)
        target = noise - clean
        assert len(set(time.tolist())) > 4
    else:
        signal = scheduler.alphas_cumprod[time].reshape(-1, 1, 1, 1)
        noise = (noisy - signal.sqrt() * clean) / (1 - signal).sqrt()
        assert torch.allclose(scheduler.add_noise(clean, noise, time), noisy, atol=1e-5)
        target = noise if kind == "epsilon" else scheduler.get_velocity(clean, noise, time)
    assert noise.mean().abs() < 0.1
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert torch.allclose(losses, target.square().mean((1, 2, 3)), rtol=1e-3)
    if kind not in models:
        wanted.gamma = 5.0
        ratio = (signal / (1 - signal)).flatten()
        weight = ratio.clamp(max=5) / (ratio if kind == "epsilon" else ratio + 1)
        assert torch.allclose(wanted.losses(model, batch), losses * weight, rtol=1e-4)


def test_measuring_is_the_same_each_time_and_whatever_stands_beside_a_row(tmp_path: Path) -> None:
    run, rows, batch = prepared(painting.shapes(tmp_path))
    wanted, model = learned(run, rows), Watched().eval()
    whole = wanted.losses(model, batch)
    assert len(model.given) == 4
    assert {int(t) // 250 for given in model.given[:1] for t in given["timestep"]} == {0}
    alone = torch.cat(
        [wanted.losses(model, collate([rows[index]]) | {"latents": batch["latents"][index : index + 1]}) for index in range(8)]
    )
    assert torch.allclose(whole, alone)
    trained = []
    for step in (1, 1, 2):
        wanted.step = step
        trained.append(wanted.losses(model.train(), batch))
    assert torch.equal(trained[0], trained[1]), "what a step draws hangs on nothing but the step"
    assert not torch.equal(trained[0], trained[2])
    assert not torch.equal(trained[0], whole)


@pytest.mark.parametrize("model", [painting.sd, painting.sdxl])
def test_what_is_left_out_is_what_guidance_is_away_from(model: Callable[[], Path], tmp_path: Path) -> None:
    """Captions that are dropped become what the pipeline takes for none: of SDXL zeros, of others the empty text."""
    run, rows, batch = prepared(painting.shapes(tmp_path, model()), "task.caption_dropout=0.5")
    watched = Watched().train()
    wanted = learned(run, rows)
    wanted.losses(watched, batch)
    said = watched.given[0]["encoder_hidden_states"]
    none = torch.from_numpy(rows.prompts[0].astype(np.float32))
    dropped = [torch.equal(row, none) for row in said]
    assert 0 < sum(dropped) < 8
    assert bool(none.any()) == (model is painting.sd)
    kept = dropped.index(False)
    assert torch.equal(said[kept], batch["prompt"][kept])
    if model is painting.sdxl:
        conditions = watched.given[0]["added_cond_kwargs"]
        assert [not row.any() for row in conditions["text_embeds"]] == dropped
        assert conditions["time_ids"][:, 4:].unique().tolist() == [painting.SIZE]
        assert conditions["time_ids"][:, :2].min() >= painting.SIZE


def test_latents_are_those_of_the_autoencoder(tmp_path: Path) -> None:
    """Scaled and shifted as the pipeline takes them back."""
    _, rows, _ = prepared(painting.shapes(tmp_path, painting.sd3()))
    vae = diffusers.AutoencoderKL.from_pretrained(painting.sd3(), subfolder="vae")
    with Image.open(tmp_path / "train" / "0.png") as opened:
        first = opened.convert("RGB")
    assert min(first.size) != max(first.size)
    scale = painting.SIZE / min(first.size)
    small = first.resize([max(painting.SIZE, round(length * scale)) for length in first.size], Image.Resampling.LANCZOS)
    left, top = ((length - painting.SIZE) // 2 for length in small.size)
    cut = np.asarray(small.crop((left, top, left + painting.SIZE, top + painting.SIZE)), np.float32)
    with torch.no_grad():
        said = vae.encode(torch.from_numpy(cut / 127.5 - 1).permute(2, 0, 1)[None]).latent_dist
    mean = torch.from_numpy(rows.latents[0, 0].astype(np.float32)) / 1.5 + 0.06
    assert torch.allclose(mean, said.mean[0], atol=2e-3)
    assert torch.allclose(torch.from_numpy(rows.latents[0, 1].astype(np.float32)) / 1.5, said.std[0], atol=2e-3)


def test_a_training_that_was_killed_goes_on_with_the_same_losses(tmp_path: Path) -> None:
    lab = painting.shapes(tmp_path)
    options = ("trainer.max_steps=6", "trainer.save_steps=2", "adapter.lora_dropout=0.1", "trainer.eval_steps=3")
    run = lab.run(*options)
    train(run)
    whole, weights = losses_of(run.folder), weights_of(run.folder, LORA_FILE)
    shutil.rmtree(run.folder / "checkpoints" / "checkpoint-6")
    (run.folder / LORA_FILE).unlink()
    train(lab.run(*options))
    assert any("going on from step 4 of 6" in told for told in lab.told)
    assert losses_of(run.folder) == whole
    again = weights_of(run.folder, LORA_FILE)
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], value) for name, value in weights.items())


def test_a_cut_batch_learns_the_same(tmp_path: Path) -> None:
    """Whatever passes at once, the losses are those of the whole batch."""
    lab, found = painting.shapes(tmp_path), []
    for micro in ("8", "2"):
        run = lab.run(f"hardware.micro_batch_size={micro}", f"name=by{micro}", *SHORT)
        train(run)
        found.append(losses_of(run.folder))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path: Path) -> None:
    """20 rows, 8 a step: the last step of an epoch has 4, and half of its places are blank."""
    lab = painting.shapes(tmp_path, rows=20)
    two, one = by_two_and_by_one(lab, "trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.eval_steps=3")
    assert len(two) == 6 + 2
    assert two == pytest.approx(one, rel=1e-4)


def captions(lab: Lab, *overrides: str) -> list[str]:
    """What is learned to be on the first images."""
    run = lab.run(*overrides)
    rows = split(run)[0]
    return [task_of(run).show(run, rows, index)["segments"][0]["text"].removesuffix(" → ") for index in range(2)]


def test_captions_stand_in_files_columns_or_the_recipe(tmp_path: Path) -> None:
    lab = painting.uncaptioned(tmp_path)
    assert captions(lab, "task.instance_prompt='a sks shape'") == ["a sks shape"] * 2
    with pytest.raises(TuneError, match=r"no caption of 0\.png") as caught:
        captions(lab)
    assert ".txt file beside the image" in caught.value.problems[0].fix
    before = lab.plan().stage("prepare").key
    for index in range(24):
        (tmp_path / "train" / f"{index}.txt").write_text(f"a red {index}\n", encoding="utf-8")
    assert captions(lab) == ["a red 0", "a red 1"]
    assert lab.plan().stage("prepare").key != before
    before = lab.plan().stage("prepare").key
    (tmp_path / "train" / "1.txt").write_text("a blue 1", encoding="utf-8")
    assert lab.plan().stage("prepare").key != before
    assert captions(lab) == ["a red 0", "a blue 1"]
    for name in ("caption", "prompt", "text"):
        lines = [json.dumps({"image": f"train/{index}.png", name: f"a circle {index}"}) + "\n" for index in range(2)]
        (tmp_path / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
        assert captions(lab, f"data.path={tmp_path}/rows.jsonl") == ["a circle 0", "a circle 1"]


def test_faulty_rows_are_named_or_passed_over(tmp_path: Path) -> None:
    lab = painting.shapes(tmp_path)
    rows = [{"image": f"train/{index}.png", "text": "a red circle"} for index in range(8)]
    rows[2]["text"] = ""
    (tmp_path / "train" / "5.png").write_bytes(b"\x89PNG damaged")

    def written() -> str:
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return f"data.path={tmp_path}/rows.jsonl"

    with pytest.raises(TuneError, match="no caption") as caught:
        train(lab.run(written()))
    assert caught.value.problems[0].where.endswith("rows.jsonl:3")
    rows[2]["text"] = "a blue square"
    with pytest.raises(TuneError, match="cannot be read") as caught:
        train(lab.run(written()))
    assert caught.value.problems[0].where.endswith("rows.jsonl:6")
    run = lab.run(written(), "data.on_error=skip", *SHORT)
    train(run)
    assert read_json(run.stage_folder("prepare") / "data.json")["skipped"]["rows"] == 1
    assert len(PaintedRows(run.stage_folder("prepare"))) == 7
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "b"}\n' * 4, encoding="utf-8")
    with pytest.raises(TuneError, match="learns from images with captions"):
        train(lab.run(f"data.path={tmp_path}/rows.jsonl"))


def test_what_does_not_fit_the_model_is_said(tmp_path: Path) -> None:
    lab = painting.shapes(tmp_path, painting.sd3())
    for override, said in (
        ("task.resolution=36", "multiples of 8"),
        ("task.snr_gamma=5", "learns a flow"),
        ("adapter.target_modules=[to_x]", "no module `to_x`"),
    ):
        run = lab.run(override)
        with pytest.raises(TuneError, match=said) as caught:
            task_of(run).possible(run)
        assert caught.value.problems[0].where == override.partition("=")[0]
    other = tmp_path / "other"
    shutil.copytree(painting.sd3(), other)
    index = read_json(other / "model_index.json")
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "SanaPipeline"}), encoding="utf-8")
    run = lab.run(f"model.id={other}")
    with pytest.raises(TuneError, match="is a SanaPipeline") as caught:
        task_of(run).possible(run)
    (other / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    weights = next((other / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_suffix(".bin"))  # nothing is read that could be a pickle
    run = lab.run(f"model.id={other}")
    with pytest.raises(TuneError, match="cannot load the model"):
        task_of(run).load(run)


@pytest.mark.parametrize(
    "override",
    [
        "adapter=qlora",
        "adapter=ia3",
        "adapter.use_dora=true",
        "adapter.bias=all",
        "adapter.modules_to_save=[conv_in]",
        "adapter.layers_to_transform=[0]",
        "adapter.init_lora_weights=pissa",
        "trainer.neftune_noise_alpha=5",
        "trainer.label_smoothing_factor=0.1",
        "trainer.padding_free=always",
        "eval.metrics=[json]",
        "data.overlong=drop",
        "data.system=Paint",
        "model.attn_implementation=sdpa",
        "model.trust_remote_code=true",
        "hardware=fsdp",
        "hardware=deepspeed",
        "debug=overfit",
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, tmp_path: Path) -> None:
    lab = painting.shapes(tmp_path, rows=2, held_out=1)
    with pytest.raises(TuneError, match=r"task=diffusion") as caught:
        lab.plan(override)
    key = override.partition("=")[0]
    assert key == "adapter" or any(f"`{key}`" in problem.what for problem in caught.value.problems)


def test_samples_are_what_the_keys_say(tmp_path: Path) -> None:
    """How many, of what, how large, in how many steps and under how much guidance."""
    lab = painting.shapes(tmp_path)

    def made(*overrides: str) -> list[Any]:
        run = lab.run(*overrides, "eval.limit=2")
        task_of(run).score(run, task_of(run).load(run), held_out(run))
        return [pixels(path) for path in sorted(run.stage_folder("baseline").glob("sample-*.png"))]

    first = made("task.samples=1")
    assert [image.shape for image in first] == [(painting.SIZE, painting.SIZE, 3)]
    assert [image.shape for image in made("task.samples=1", "task.resolution=16")] == [(16, 16, 3)]
    assert len(made("task.sample_prompts=[a square,a circle,blue]")) == 3
    assert made("eval.generate=false") == []
    others = [made("task.samples=1", f"task.{key}")[0] for key in ("sample_steps=2", "guidance_scale=1", "sample_prompts=[blue]")]
    assert all(not np.array_equal(first[0], other) for other in others)


def test_a_denoising_knows_the_kind_of_its_model() -> None:
    scheduler = diffusers.DDPMScheduler(prediction_type="sample")

    class Any_(Watched):
        flow, trained = False, "unet"

    wanted = Denoising(Any_(), scheduler, empty={})  # type: ignore[arg-type]
    clean, noise, place = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([3, 700])
    assert torch.equal(wanted.noised(clean, noise, place)[1], clean)


def test_what_is_too_long_is_counted(tmp_path: Path) -> None:
    """By the text encoder that reads most: of Flux the T5."""
    for model, words, cut in ((painting.sd, 20, True), (painting.sd, 10, False), (painting.flux, 20, False), (painting.flux, 600, True)):
        lab = painting.uncaptioned(tmp_path / f"{model.__name__}{words}", model())
        run = lab.run(f"task.instance_prompt='{'red ' * words}'", "task.resolution=16")
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
        found = read_json(run.stage_folder("prepare") / "audit.json")
        assert found["taught"] == "1 different caption" + (", 1 of them cut" if cut else "")
        assert found["rows_truncated"] == 24 * cut


def test_all_of_a_part_is_published_and_loads_as_the_card_says(tmp_path: Path) -> None:
    """In bf16, where what is saved is narrower than what was trained; a class of images beside, as prior preservation is."""
    lab = painting.shapes(tmp_path)
    shutil.copytree(tmp_path / "train", tmp_path / "class")
    mix = f"data.mix={{own: {{path: {tmp_path}/train}}, class: {{path: {tmp_path}/class}}}}"
    options = ("adapter=full", "trainer.precision=bf16", "model.dtype=bfloat16", "eval.generate=false", "data.path=null", mix, *SHORT)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.activation_checkpointing=true", *options) == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    assert read_json(folder / "data.json")["train"]["rows"] == 48
    assert read_json(folder / "data.json")["train"]["duplicates"] == 24
    assert not (folder / "samples.png").exists()
    files = {path.relative_to(folder / "published").as_posix() for path in (folder / "published").rglob("*.*")}
    assert {"unet/config.json", "unet/diffusion_pytorch_model.safetensors", "README.md"} <= files
    assert {value.dtype for value in weights_of(folder / "published" / "unet", "diffusion_pytorch_model.safetensors").values()} == {
        torch.bfloat16
    }
    assert painted(plain(painting.sd(), folder / "published", "full"), "a red circle").shape == (painting.SIZE, painting.SIZE, 3)
