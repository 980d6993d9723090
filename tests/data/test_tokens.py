"""Which tokens start within a span: counted by bytes, it is what the tokenizer's own offsets say."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.lab import tiny_tokenizer
from tuner.data.tokens import Encoder, byte_widths

TEXT = st.text(st.one_of(st.characters(blacklist_categories=["Cs"]), st.sampled_from("aé日😀\n ")), max_size=40)


@settings(max_examples=300, deadline=None)
@given(TEXT, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=3))
def test_bytes_say_what_offsets_say(text: str, pairs: list[tuple[int, int]]) -> None:
    spans = [(min(a, b, len(text)), min(max(a, b), len(text))) for a, b in pairs]
    fast = Encoder(tiny_tokenizer())
    slow = copy.copy(fast)
    slow.widths = None
    assert fast.widths is not None
    ((ids, trained),) = fast.encode([text], [spans])
    ((expected_ids, expected),) = slow.encode([text], [spans])
    assert np.array_equal(ids, expected_ids)
    assert np.array_equal(trained, expected)


def test_a_row_whose_bytes_do_not_add_up_goes_by_offsets() -> None:
    """A mark that swallows the space before it."""
    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.add_tokens([AddedToken("<cut>", lstrip=True)])
    encoder = Encoder(tokenizer)
    assert encoder.widths is not None
    (_, plain), (ids, trained) = encoder.encode(["ab", "ab   <cut>c"], [[(0, 1)], [(10, 11)]])
    assert plain.tolist() == [True, False]
    assert tokenizer.convert_ids_to_tokens(ids[trained].tolist()) == ["c"]


@pytest.mark.parametrize("kind", ["normalizer", "words"])
def test_other_tokenizers_have_no_byte_widths(kind: str) -> None:
    if kind == "words":
        raw = Tokenizer(models.WordLevel({"a": 0, "b": 1, "?": 2}, unk_token="?"))
        raw.pre_tokenizer = pre_tokenizers.Whitespace()
    else:
        raw = Tokenizer.from_str(tiny_tokenizer().backend_tokenizer.to_str())
        raw.normalizer = normalizers.NFC()
    assert byte_widths(raw) is None
    ((_, trained),) = Encoder(PreTrainedTokenizerFast(tokenizer_object=raw)).encode(["a b a"], [[(2, 5)]])
    assert trained.sum() == (2 if kind == "words" else 3)
