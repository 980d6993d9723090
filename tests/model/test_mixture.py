"""`tune merge` of folders that plain PEFT wrote: what they can have that our runs have not, and files that are not whole."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from tests.train.test_training import fresh_base
from tuner.cli import main

pytestmark = pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT, wherever it loads such an adapter
WEIGHTS = (0.3, -1.1)
Tensors = dict[str, torch.Tensor]
KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "words": {"target_modules": ["embed_tokens", "q_proj"], "use_rslora": True},
    "expression": {"target_modules": r".*layers\.1.*(k|v)_proj"},
    "patterns": {"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"q_proj": 3}},
    "patterns2": {"rank_pattern": {"v_proj": 8}},
    "lone": {"layers_to_transform": [0], "exclude_modules": ["v_proj"]},
    "wide": {"r": 40, "target_modules": "all-linear"},
    "even": {"init_lora_weights": "orthogonal"},
    "odd": {"r": 3},
    "biases": {"lora_bias": True},
    "twice": {"layer_replication": [(0, 1), (0, 2)]},
    "invoked": {"alora_invocation_tokens": [1, 2]},
    "pissa": {"init_lora_weights": "pissa"},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One adapter of each kind, with numbers of its own in all matrices."""
    root = tmp_path_factory.mktemp("adapters")
    for seed, (name, kind) in enumerate(KINDS.items()):
        torch.manual_seed(seed)
        settings = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"} | kind
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT thinks of such kinds
            model: Any = get_peft_model(fresh_base(), LoraConfig(**settings))
            for key, parameter in model.named_parameters():
                if "lora_" in key:
                    torch.nn.init.normal_(parameter.data, std=0.05)
            model.save_pretrained(str(root / name))
    return root


def update(folder: Path) -> Tensors:
    """What a saved adapter adds to each weight, as plain PEFT loads it."""
    model: Any = PeftModel.from_pretrained(fresh_base(), str(folder))
    return {n: m.get_delta_weight("default").detach() for n, m in model.named_modules() if isinstance(m, LoraLayer)}


def merge(target: Path, *folders: Path, method: str = "cat") -> int:
    return main(["merge", *map(str, folders), f"to={target}", f"method={method}", "weights=[{},{}]".format(*WEIGHTS)])


@pytest.mark.parametrize(
    "names",
    [
        ("rslora", "plain"),
        ("words", "words"),
        ("words", "plain"),
        ("expression", "plain"),
        ("plain", "expression"),
        ("patterns", "patterns2"),
        ("lone", "plain"),
        ("expression", "lone"),
        ("wide", "lone"),
        ("even", "odd"),
    ],
)
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_whatever_the_places_and_ranks_it_is_the_weighted_sum(folders: Path, tmp_path: Path, names: tuple[str, str], method: str) -> None:
    """`cat` exactly; `svd` as near as its rank allows."""
    assert merge(tmp_path / "out", *(folders / name for name in names), method=method) == 0
    found, parts = update(tmp_path / "out"), [update(folders / name) for name in names]
    assert found.keys() == parts[0].keys() | parts[1].keys()
    for name in found:
        meant: Any = sum(weight * part[name] for weight, part in zip(WEIGHTS, parts, strict=True) if name in part)
        if method == "cat":
            torch.testing.assert_close(found[name], meant, atol=1e-6, rtol=1e-4)
            continue
        rank = max(max(KINDS[n].get("r", 4), *KINDS[n].get("rank_pattern", {"": 0}).values()) for n in names)
        u, s, v = torch.linalg.svd(meant, full_matrices=False)
        torch.testing.assert_close(found[name], u[:, :rank] * s[:rank] @ v[:rank], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_methods_on_factors_take_equal_ranks_by_pattern(
    folders: Path, tmp_path: Path, method: str, capsys: pytest.CaptureFixture[str]
) -> None:
    density = ["density=0.5"] if method == "ties" else []
    same, other = ([str(folders / name) for name in ("patterns", second)] for second in ("patterns", "patterns2"))
    assert main(["merge", *same, f"to={tmp_path / 'out'}", f"method={method}", *density]) == 0
    assert main(["merge", *other, f"to={tmp_path / 'no'}", f"method={method}", *density]) == 2
    assert "needs equal ranks, and at model.layers.0.self_attn.q_proj they are 8, 4" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("biases", "has `lora_bias`"),
        ("twice", "has `layer_replication`"),
        ("invoked", "has `alora_invocation_tokens`"),
        ("pissa", "has `init_lora_weights=pissa`: it is for a base that was changed"),
    ],
)
def test_what_is_no_sum_is_refused_wherever_it_stands(
    folders: Path, tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for pair in ((name, "plain"), ("plain", name)):
        assert merge(tmp_path / "out", *(folders / each for each in pair)) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def short(tensors: Tensors) -> Tensors:
    return {key: tensors[key] for key in sorted(tensors)[1:]}


def more(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.ones(4, 32)}


def whole(tensors: Tensors) -> Tensors:
    return tensors | {"base_model.model.model.embed_tokens.weight": torch.ones(7, 32)}


def none(tensors: Tensors) -> Tensors:
    return {key: tensor / 0 for key, tensor in tensors.items()}


def narrow(tensors: Tensors) -> Tensors:
    return {key: tensor[:2].clone() for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (short, "has no base_model"),
        (more, "has, with no place in its configuration, base_model"),
        (whole, "has a whole weight that differs from the base"),
        (none, "has numbers that are none"),
        (narrow, "does not fit its base"),
    ],
)
def test_a_file_that_is_not_whole_is_told(
    folders: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders / "plain", tmp_path / "bad")
    file = tmp_path / "bad" / "adapter_model.safetensors"
    save_file(change(load_file(file)), file)
    for pair in ((folders / "rslora", tmp_path / "bad"), (tmp_path / "bad", folders / "rslora")):
        assert merge(tmp_path / "out", *pair) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["bad"]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("adapter_model.safetensors", "torn", "weights of .* cannot be read"),
        ("adapter_model.safetensors", None, "has no weights"),
        ("adapter_config.json", "{", "configuration of .* cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    folders: Path, tmp_path: Path, file: str, text: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folders / "plain", tmp_path / "bad")
    (tmp_path / "bad" / file).unlink()
    if text is not None:
        (tmp_path / "bad" / file).write_text(text)
    assert merge(tmp_path / "out", folders / "plain", tmp_path / "bad") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert all(part in told for part in message.split(" .* "))
