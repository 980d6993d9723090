"""Rows that are longer than a model has positions: told before anything is measured, where the positions are a table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import BartConfig, BertConfig, GPT2Config, LlamaConfig, RobertaConfig

from tests.lab import make_lab
from tests.tasks import labs
from tests.tasks.test_classify import tune
from tuner.errors import TuneError
from tuner.train.possible import has_places


def test_a_row_beyond_the_model_s_positions_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.classes(tmp_path)
    with (tmp_path / "train.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"text": "good film " * 60, "label": "good"}) + "\n")
    assert tune(lab, "recipe=small", "launcher=inline", "task.max_length=100") == 3
    assert "the longest row has 100 tokens" in (said := capsys.readouterr().err)
    assert "`task.max_length=64`" in said
    assert tune(lab, "recipe=small", "launcher=inline", "task.max_length=64", "trainer.max_steps=1") == 0


SMALL = {"vocab_size": 10, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BART = {
    "vocab_size": 10,
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
}


@pytest.mark.parametrize(
    ("config", "room"),
    [
        (BertConfig(**SMALL, max_position_embeddings=32), 32),
        (RobertaConfig(**SMALL, max_position_embeddings=34), 32),
        (GPT2Config(vocab_size=10, n_embd=8, n_layer=1, n_head=2, n_positions=32), 32),
        (BartConfig(**BART, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=32), 32),
        (LlamaConfig(**SMALL, max_position_embeddings=32), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_places_are_counted_as_the_model_counts_them(config: object, room: int | None, tmp_path: Path) -> None:
    config.save_pretrained(tmp_path / "model")  # type: ignore[attr-defined]
    run = make_lab(tmp_path / "lab").run(f"model.id={tmp_path / 'model'}")
    has_places(run, 32)  # all of them
    if room is None:
        has_places(run, 1000)  # its positions are computed
        return
    with pytest.raises(TuneError, match=f"knows {room} positions"):
        has_places(run, 35)
    if room < (getattr(config, "max_position_embeddings", None) or room):
        with pytest.raises(TuneError, match=f"knows {room} positions"):
            has_places(run, 33)
