"""A model of another kind than the task is for is told from its config.json: an encoder under `task: sft`, a ViT under `classify`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BertGenerationConfig,
    CamembertConfig,
    ElectraConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MPNetConfig,
    PretrainedConfig,
    RobertaConfig,
    SegformerConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2Config,
    WhisperConfig,
    XLMConfig,
    XLMRobertaConfig,
    XLNetConfig,
    set_seed,
)

from tests.lab import make_lab
from tests.tasks import labs
from tests.tasks.test_classify import tune
from tuner.errors import TuneError
from tuner.model.kinds import fits, looks_ahead
from tuner.registry import kinds
from tuner.schema.model import Model

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}
BERT = SIZES | {"max_position_embeddings": 32, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.5}
LLAMA = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
XL = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 16, "vocab_size": 20, "initializer_range": 0.5}
XLM = {"vocab_size": 20, "emb_dim": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.0, "embed_init_std": 0.5, "init_std": 0.5}
GPT2 = {"vocab_size": 20, "n_embd": 16, "n_layer": 1, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("config", "ahead"),
    [
        *((cls(**BERT), True) for cls in (BertConfig, RobertaConfig, CamembertConfig, XLMRobertaConfig, BertGenerationConfig)),
        (ElectraConfig(**BERT, embedding_size=16), True),
        (XLNetConfig(**XL), True),
        (XLMConfig(**XLM), True),
        (Gemma3TextConfig(**LLAMA, use_bidirectional_attention=True), True),
        (BertConfig(**BERT, is_decoder=True), False),
        (RobertaConfig(**BERT, is_decoder=True), False),
        (XLMConfig(**XLM, causal=True), False),
        (LlamaConfig(**LLAMA), False),
        (Gemma3TextConfig(**LLAMA), False),
        (GPT2Config(**GPT2), False),
        (GPTNeoXConfig(**SIZES, initializer_range=0.5), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, PretrainedConfig) else "ahead" if value else "back",
)
def test_what_looks_ahead_is_known_from_its_configuration(config: PretrainedConfig, ahead: bool) -> None:
    """The configuration says what the weights do: whether the first tokens change with the last one."""
    set_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    first, other = torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([[3, 4, 5, 6, 9]])
    with torch.no_grad():
        moved = (model(input_ids=first).logits - model(input_ids=other).logits)[0, :3].abs().max()
    assert bool(moved > 1e-4) is ahead
    assert looks_ahead(config) is ahead


T5 = partial(T5Config, vocab_size=20)


@pytest.mark.parametrize("task", ["sft", "pretrain", "dpo", "orpo", "kto", "grpo", "online_dpo", "distil"])
@pytest.mark.parametrize(
    ("config", "does"),
    [
        (RobertaConfig(), "reads a text as a whole"),
        (MPNetConfig(), "reads a text as a whole"),
        (T5(), "reads a text and writes another"),
        (BartConfig(), "reads a text and writes another"),
        (WhisperConfig(), "hears and writes"),
    ],
    ids=["roberta", "mpnet", "t5", "bart", "whisper"],
)
def test_only_what_writes_is_taken_for_a_task_that_writes(config: PretrainedConfig, does: str, task: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(TuneError, match=does) as caught:
        fits(Model(id=str(tmp_path)), kinds("task")[task](), at="model.id", progress=print)
    problem = caught.value.problems[0]
    assert (caught.value.code, problem.where) == (2, "model.id")
    assert f"`task={task}` needs one that writes" in problem.what


@pytest.mark.parametrize(
    ("task", "config", "other"),
    [
        ("classify", ViTConfig(), "classify_image"),
        ("classify", Wav2Vec2Config(), "classify_audio"),
        ("embed", ViTConfig(), "classify_image"),
        ("embed", WhisperConfig(), "transcribe"),
        ("tag", SegformerConfig(), "segment"),
        ("qa", ViTConfig(), "classify_image"),
        ("fill_mask", T5(), "seq2seq, translate, summarize"),
        ("classify_image", BertConfig(), "classify, tag"),
        ("classify_audio", ViTConfig(), "classify_image"),
        ("transcribe", Wav2Vec2Config(), "classify_audio"),
        ("vlm", LlamaConfig(), "sft"),
        ("seq2seq", LlamaConfig(), "sft"),
        ("segment", LlamaConfig(), "sft"),
        ("detect", BertConfig(), "classify, tag"),
    ],
)
def test_a_model_of_another_kind_is_told_with_the_tasks_for_it(task: str, config: PretrainedConfig, other: str, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    with pytest.raises(TuneError, match=f"`task={task}` needs one that") as caught:
        fits(Model(id=str(tmp_path)), kinds("task")[task](), at="model.id", progress=print)
    assert caught.value.problems[0].where == "model.id"
    assert f"a task for this one: {other}" in caught.value.problems[0].fix


@pytest.mark.parametrize(
    ("task", "config"),
    [
        ("sft", LlamaConfig()),
        ("sft", RobertaConfig(is_decoder=True)),
        ("reward", BertConfig()),
        ("classify", LlamaConfig()),
        ("tag", T5()),
        ("embed", BertConfig()),
        ("embed", MPNetConfig()),
        ("embed", T5()),
        ("embed", Gemma3TextConfig(use_bidirectional_attention=True)),
        ("classify_audio", WhisperConfig()),
        ("summarize", BartConfig()),
    ],
)
def test_models_that_a_task_is_for_are_taken(task: str, config: PretrainedConfig, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path)
    said: list[str] = []
    fits(Model(id=str(tmp_path)), kinds("task")[task](), at="model.id", progress=said.append)  # raises for others: see above
    assert not said


def test_a_run_and_a_check_end_before_a_row_is_looked_at(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lab, model = make_lab(tmp_path / "lab"), f"model.id={labs.encoder()}"
    for command in (("recipe=small", "launcher=inline"), ("check", "recipe=small"), ("preview", "recipe=small")):
        assert tune(lab, *command, model) == 2
        said = capfd.readouterr().err
        assert said.count("error:") == 1
        assert "at: model.id" in said
        assert "`task=sft` needs one that writes" in said
    assert not list((tmp_path / "lab" / "outputs").rglob("data.json"))


def test_a_teacher_writes_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "task=distil", f"task.teacher={labs.encoder()}") == 2
    said = capfd.readouterr().err
    assert "at: task.teacher" in said
    assert "`task=distil` needs one that writes" in said
