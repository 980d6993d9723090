"""The fast tokenizer: the same ids as the Hugging Face one, and that one for all rows where it is not sure to be so."""

from __future__ import annotations

import json
import sys
from typing import Any

import fastokens
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.lab import tiny_tokenizer
from tuner.data import fast
from tuner.data.chat import CHATML, TokenRow, tokenize
from tuner.data.fast import encoder_for
from tuner.data.tokens import Encoder
from tuner.data.turns import Example
from tuner.errors import ENVIRONMENT, TuneError
from tuner.schema.data import Backend
from tuner.schema.task import Sft

MARKS = ["<|im_start|>", "<|im_end|>", "<|im_sta", "<|endoftext|>"]
PIECES = [*MARKS, "  ", "\n\n1", "é日😀", "\x04", "½²٣7", "'ll don't"]
TEXT = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(PIECES)), max_size=8).map("".join)


def bpe(*, digits: bool = False, without: str = "") -> PreTrainedTokenizerBase:
    """A byte-level BPE of a few merges like SmolLM2's: digits one by one, and no token for the bytes `without`."""
    letters = [c for c in pre_tokenizers.ByteLevel.alphabet() if c not in without]
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("Ġ", "Ġ"), ("Ċ", "Ċ"), ("Ã", "©"), ("i", "n"), ("in", "g"), ("1", "2")]
    words = [*sorted(letters), *("".join(m) for m in merges)]
    raw = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if digits else []
    raw.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


TOKENIZERS = {"plain": bpe(), "digits": bpe(digits=True), "without": bpe(digits=True, without="Äñ"), "bytes": tiny_tokenizer()}


def talks(count: int) -> list[Example]:
    """Conversations that differ."""
    said = [f"the thing {n}, é\x04 {n * n}  7" for n in range(count)]
    return [{"messages": [{"role": "user", "content": s}, {"role": "assistant", "content": s[::-1]}], "tools": None} for s in said]


def encoder(tokenizer: PreTrainedTokenizerBase, choice: Backend = Backend.fast, *, count: int = 20) -> tuple[Encoder, list[str]]:
    told: list[str] = []
    return encoder_for(talks(count), tokenizer, Sft(), choice=choice, tell=told.append), told


FAST = {name: encoder(tokenizer)[0] for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=4))
def test_both_write_the_same_ids(name: str, texts: list[str]) -> None:
    assert FAST[name].name == "fastokens"
    for wanted, got in zip(FAST[name].slow(texts), FAST[name].ids(texts), strict=True):
        assert got.dtype == wanted.dtype
        assert np.array_equal(wanted, got)


def same(a: list[TokenRow], b: list[TokenRow]) -> bool:
    """Whether rows are equal, masks and all."""
    assert len(a) == len(b)
    return all(np.array_equal(x.ids, y.ids) and np.array_equal(x.trained, y.trained) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_rows_are_the_same_with_either(name: str) -> None:
    """`without`: \\x04 has no token, so its rows' bytes do not add up and their masks go by offsets."""
    tokenizer = TOKENIZERS[name]
    slow, quick = (list(tokenize(talks(30), tokenizer, Sft(), encoder=by)) for by in (None, FAST[name]))
    assert same(slow, quick)
    assert quick[3].trained.any()


def test_few_rows_are_not_worth_a_second_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["digits"]
    assert encoder(tokenizer, Backend.auto)[0].name == "huggingface"
    monkeypatch.setattr(fast, "WORTH_CHARACTERS", 1000)
    assert encoder(tokenizer, Backend.auto)[0].name == "fastokens"
    assert encoder(tokenizer, Backend.huggingface)[0].name == "huggingface"


class Other:
    """A fast tokenizer that writes other ids for texts with a word in them."""

    word = "thing 11,"

    def __init__(self, real: Any) -> None:
        self.real = real

    @classmethod
    def from_json_str(cls, text: str) -> Other:
        return cls(REAL.from_json_str(text))

    def enable_segment_cache(self, size: int) -> None:
        """As the real one."""

    def encode_batch_flat(self, texts: list[str]) -> tuple[bytes, bytes]:
        found: tuple[bytes, bytes] = self.real.encode_batch_flat([t.replace(self.word, "thong 11,") for t in texts])
        return found


REAL: Any = fastokens.Tokenizer


def test_one_other_id_in_the_sample_and_hugging_face_does_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastokens.Tokenizer", Other)
    monkeypatch.setattr(fast, "WORTH_CHARACTERS", 1)
    found, told = encoder(TOKENIZERS["plain"], Backend.auto)
    assert found.name == "huggingface"
    (line,) = told
    assert line.startswith("the Hugging Face tokenizer is used for all rows: fastokens writes other ids")
    assert "thing 11," in line
    with pytest.raises(TuneError, match=r"data\.tokenizer=fast cannot be had") as error:
        encoder(TOKENIZERS["plain"])
    assert error.value.code == ENVIRONMENT


def test_the_sample_reaches_over_all_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastokens.Tokenizer", Other)
    monkeypatch.setattr(Other, "word", " 99000")
    monkeypatch.setattr(fast, "WORTH_CHARACTERS", 1)
    late = {"messages": [{"role": "user", "content": "a 99000"}], "tools": None}
    many = [*talks(1) * 1500, *[late] * 20]
    told: list[str] = []
    assert encoder_for(many, TOKENIZERS["plain"], Sft(), choice=Backend.auto, tell=told.append).name == "huggingface"
    assert len(told) == 1


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastokens", None)
    monkeypatch.setattr(fast, "WORTH_CHARACTERS", 1)
    found, told = encoder(TOKENIZERS["plain"], Backend.auto)
    assert found.name == "huggingface"
    assert told == []
    with pytest.raises(TuneError, match="not installed") as error:
        encoder(TOKENIZERS["plain"])
    assert error.value.code == ENVIRONMENT
    assert "tuner[fast]" in error.value.problems[0].fix


def test_only_a_byte_level_bpe_that_leaves_texts_alone_has_a_fast_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "WORTH_CHARACTERS", 1)
    raw = Tokenizer.from_str(json.dumps(json.loads(TOKENIZERS["plain"].backend_tokenizer.to_str())))
    raw.normalizer = normalizers.NFC()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw)
    tokenizer.chat_template = CHATML
    found, told = encoder(tokenizer, Backend.auto)
    assert found.name == "huggingface"
    assert "no byte-level BPE" in told[0]
