"""`tune merge`: PEFT's ways to make one adapter of several, proved by what plain PEFT loads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraModel, PeftModel
from transformers import AutoModelForCausalLM

from tests.lab import Lab, make_lab, tiny_model, train
from tests.train.test_training import fresh_base, logits
from tuner.cli import main
from tuner.commands.merge_ import METHODS, PRUNING
from tuner.model import mixture


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Three runs: two of one shape, one of another rank."""
    lab = make_lab(tmp_path_factory.mktemp("merge"))
    runs = {"one": [], "two": ["seed=5"], "wide": ["adapter.r=4"], "other": ["adapter=ia3"], "rs": ["adapter=rslora"]}
    runs |= {"rs2": ["adapter=rslora", "seed=5"], "magnitudes": ["adapter=dora"], "tokens": ["model.add_tokens=[plus]"]}
    runs |= {
        "head": ["adapter.modules_to_save=[lm_head]", "model.id=" + str(untied(lab.folder))],
        "first": ["adapter.layers_to_transform=[0]"],
    }
    runs |= {"query": ["adapter.target_modules=[q_proj]"], "value": ["adapter.target_modules=[v_proj]"]}
    runs |= {"moved": ["adapter.init_lora_weights=pissa"], "but": ["adapter.exclude_modules=[v_proj]", "seed=7"]}
    for name, overrides in runs.items():
        run = lab.run(f"name={name}", "trainer.max_steps=3", *overrides)
        train(run)
        run.plan.write(run.folder / "plan.json")
    return lab


def untied(folder: Path) -> Path:
    """The tiny model with a head of its own, which can be saved beside an adapter."""
    model: Any = AutoModelForCausalLM.from_pretrained(tiny_model(), tie_word_embeddings=False)
    model.save_pretrained(str(folder / "untied"))
    for path in tiny_model().iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / "untied" / path.name).write_bytes(path.read_bytes())
    return folder / "untied"


def merge(lab: Lab, *args: str) -> int:
    return main(["merge", *args, f"output_dir={lab.folder / 'outputs'}"])


def update(folder: Path) -> dict[str, torch.Tensor]:
    """What a saved adapter adds to each weight, as plain PEFT loads it."""
    model: Any = PeftModel.from_pretrained(fresh_base(), str(folder))
    return {n: m.get_delta_weight("default").detach() for n, m in model.named_modules() if hasattr(m, "get_delta_weight")}


def folder_of(lab: Lab, name: str) -> Path:
    return next((lab.folder / "outputs" / name).iterdir())


@pytest.mark.parametrize("method", METHODS)
def test_each_method_gives_an_adapter_that_plain_peft_loads(
    lab: Lab, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["density=0.5"] if method in PRUNING else []
    assert merge(lab, "one", "two", f"method={method}", f"to={tmp_path / 'out'}", "weights=[0.25,0.75]", *more, "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["reloaded"] < 1e-3
    found, one, two = update(tmp_path / "out"), update(folder_of(lab, "one")), update(folder_of(lab, "two"))
    assert found.keys() == one.keys()
    if method in ("cat", "svd"):
        for name in found:
            torch.testing.assert_close(found[name], 0.25 * one[name] + 0.75 * two[name], atol=1e-5 if method == "cat" else 1e-2, rtol=1e-4)
    plain: Any = PeftModel.from_pretrained(fresh_base(), str(tmp_path / "out"))
    assert (logits(plain) - logits(fresh_base())).abs().max() > 1e-4
    assert {p.name for p in (tmp_path / "out").iterdir()} >= {
        "adapter_model.safetensors",
        "adapter_config.json",
        "tokenizer.json",
        "merge.json",
    }
    assert facts["rank"] == {"cat": 32}.get(method, 16)
    assert 0 < facts["parents"]["two"]["distance"] < 5


def test_dare_draws_by_its_seed(lab: Lab, tmp_path: Path) -> None:
    for name, seed in {"a": 1, "b": 1, "c": 2}.items():
        merge(lab, "one", "two", "method=dare_linear", "density=0.5", f"seed={seed}", f"to={tmp_path / name}")
    a, b, c = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["one"], "merge needs two adapters"),
        (["one", "two"], "where should the result go"),
        (["one", "two", "to=.", "method=ties"], "it is already there"),
        (["one", "two", "to=x", "method=tie"], "unknown method `tie`"),
        (["one", "two", "to=x", "method=ties"], "how many are kept"),
        (["one", "two", "to=x", "density=0.5"], "`cat` keeps every number"),
        (["one", "two", "to=x", "method=ties", "density=2"], "density is a share"),
        (["one", "two", "to=x", "weights=[1]"], "`weights` has 1 numbers for 2"),
        (["one", "two", "to=x", "wieghts=[1,2]"], "did you mean `weights`"),
        (["one", "nothing", "to=x"], "no run called `nothing`"),
        (["one", "other", "to=x"], "LoRA adapters alone"),
        (["one", "wide", "to=x", "method=linear"], "`linear` needs equal ranks, and at .* are 16, 4 .* use `method=cat`"),
        (["one", "two", "to=x", "weights=[nan,1]"], "`weights` is made of finite numbers"),
        (["one", "two", "to=x", "seed=inf"], "`seed` is made of finite numbers"),
        (["one", "two", "to=x", "seed=-1"], "`seed` is a whole number from 0 on"),
        (["one", "magnitudes", "to=x"], "magnitudes has `use_dora`"),
        (["magnitudes", "one", "to=x"], "magnitudes has `use_dora`"),
        (["one", "tokens", "to=x"], "tokens has `trainable_token_indices`"),
        (["tokens", "one", "to=x"], "tokens has `trainable_token_indices`"),
        (["head", "head", "to=x"], "head has `modules_to_save`"),
        (["one", "two", "to=x", "seed=nan"], "`seed` is made of finite numbers .* as `seed=1`"),
        (["one", "two", "to=x", "weights=[1,inf]"], "`weights` is made of finite numbers"),
        (["head", "one", "to=x"], "head has `modules_to_save`: .* take its result as a base instead: `model=run:head`"),
        (["tokens", "tokens", "to=x"], "tokens has `trainable_token_indices`"),
    ],
)
def test_what_cannot_be_merged_is_told(lab: Lab, args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(lab, *args) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not Path("x").exists()


def test_unlike_ranks_are_merged_by_cat(lab: Lab, tmp_path: Path) -> None:
    assert merge(lab, "one", str(folder_of(lab, "wide")), f"to={tmp_path / 'out'}") == 0
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 20


@pytest.mark.parametrize(
    ("names", "weights"),
    [
        (("rs", "rs2"), [0.5, 0.5]),
        (("one", "rs"), [0.3, 1.1]),
        (("query", "value"), [2.0, -1.0]),
        (("one", "moved"), [0.3, 1.1]),
        (("first", "one"), [0.3, 1.1]),
        (("one", "first"), [0.3, 1.1]),
        (("but", "first"), [0.3, -1.1]),
        (("value", "but"), [0.3, 1.1]),
    ],
)
def test_cat_is_the_weighted_sum_whatever_the_scales_and_modules(
    lab: Lab, tmp_path: Path, names: tuple[str, str], weights: list[float]
) -> None:
    """rsLoRA's scale is `alpha / sqrt(r)`; a module that one alone has counts with its weight."""
    assert merge(lab, *names, f"to={tmp_path / 'out'}", f"weights={weights}".replace(" ", "")) == 0
    found = update(tmp_path / "out")
    parts = [update(folder_of(lab, name)) for name in names]
    assert found.keys() == parts[0].keys() | parts[1].keys()
    for name in found:
        meant = sum(weight * part[name] for weight, part in zip(weights, parts, strict=True) if name in part)
        torch.testing.assert_close(found[name], meant, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_a_scale_that_is_not_meant_is_not_kept(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """The result agrees with itself, loaded or not: it is what was meant of the sources that it must agree with."""
    monkeypatch.setattr(mixture, "_plain", lambda model: None)
    more = ["density=0.5"] if method in PRUNING else []
    assert merge(lab, "rs", "rs2", f"to={tmp_path / 'out'}", f"method={method}", *more) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
def test_weights_that_are_not_meant_are_not_kept(
    lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    right = LoraModel.add_weighted_adapter

    def wrong(model: Any, names: list[str], weights: list[float], *args: Any, **options: Any) -> None:
        right(model, names, [weights[0], 1.1 * weights[1]], *args, **options)

    monkeypatch.setattr(LoraModel, "add_weighted_adapter", wrong)
    assert merge(lab, "one", "two", f"to={tmp_path / 'out'}", f"method={method}") == 3
    assert "is not what was meant: at model.layers.0" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("method", ["cat", "linear", "svd"])
def test_a_result_is_merged_again_and_gone_on_with_as_it_is(lab: Lab, tmp_path: Path, method: str) -> None:
    """Its matrices hold all scales: `lora_alpha` is the rank that they have."""
    out = tmp_path / "out"
    assert merge(lab, "rs", "rs2", f"to={out}", f"method={method}") == 0
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["lora_alpha"], config["use_rslora"]) == (config["r"], False)
    assert merge(lab, str(out), "one", f"to={tmp_path / 'again'}", "weights=[1,0]") == 0
    found, again = update(out), update(tmp_path / "again")
    for name in found:
        torch.testing.assert_close(again[name], found[name])
    ranks = [f"adapter.r={config['r']}", f"adapter.lora_alpha={config['r']}"]
    run = lab.run(f"name=on-{method}", f"adapter.continue_from={out}", *ranks, "trainer.max_steps=1", "trainer.learning_rate=1e-9")
    train(run)
    for name, there in update(run.folder).items():
        torch.testing.assert_close(there, found[name], atol=1e-5, rtol=1e-4)


def test_a_place_that_cannot_be_written_is_told(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert merge(lab, "one", "two", "to=/proc/nowhere/x") == 4
    assert "cannot write the result" in capsys.readouterr().err


def test_a_place_that_cannot_be_looked_at_is_told(lab: Lab, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "lstat", refuse)
    assert merge(lab, "one", "two", "to=locked") == 4
    assert "cannot look there: Permission denied" in capsys.readouterr().err
