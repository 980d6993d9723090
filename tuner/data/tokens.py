"""Texts to token ids, and which of them start within given characters: `Encoder(tokenizer).encode(["a b"], [[(0, 1)]])` -> ids, trained.

With a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM …) a token's length in bytes is known from the vocabulary, so where tokens start is a
cumulative sum, and the tokenizer need not keep offsets. A row whose bytes do not add up, and any other tokenizer, goes by its offsets.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from tuner.data.masks import Span
from tuner.errors import TuneError

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]


class Encoder:
    """The Rust tokenizer itself, on all cores: Transformers' call would turn every offset into Python numbers."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            fix = "use a model whose tokenizer has a tokenizer.json"
            raise TuneError(f"{type(tokenizer).__name__} gives no character offsets, so masks cannot be made", "model.id", fix)
        self.backend: Any = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.widths = byte_widths(self.backend)

    def encode(self, texts: list[str], spans: list[list[Span]]) -> Iterator[tuple[Ids, Flags]]:
        """Of each text its token ids [T] and whether each token starts within one of the text's spans of characters [T]."""
        if self.widths is None:
            for encoding, wanted in zip(self.backend.encode_batch(texts, add_special_tokens=False), spans, strict=True):
                yield _by_offsets(encoding, wanted)
            return
        for text, encoding, wanted in zip(texts, self.backend.encode_batch_fast(texts, add_special_tokens=False), spans, strict=True):
            ids = np.asarray(encoding.ids, dtype=np.int32)
            found = _by_bytes(text, ids, wanted, self.widths)
            yield _by_offsets(self.backend.encode(text, add_special_tokens=False), wanted) if found is None else (ids, found)


def byte_widths(backend: Any) -> NDArray[np.int64] | None:
    """Bytes of each token [V] of a byte-level BPE that changes no byte; None for any other tokenizer."""
    steps = backend.pre_tokenizer.__getstate__().decode() if backend.pre_tokenizer else ""  # its JSON; all of the tokenizer's takes 0.1 s
    plain = backend.normalizer is None and '"ByteLevel"' in steps and '"add_prefix_space":true' not in steps
    if not isinstance(backend.model, models.BPE) or not plain:
        return None
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {index: token.content for index, token in backend.get_added_tokens_decoder().items()}
    for token in added.values():
        vocabulary.pop(token, None)
    if not set(pre_tokenizers.ByteLevel.alphabet()).issuperset("".join(vocabulary)):  # one letter for each byte
        return None
    widths = np.zeros(1 + max(*vocabulary.values(), *added), dtype=np.int64)
    widths[list(vocabulary.values())] = list(map(len, vocabulary))
    widths[list(added)] = [len(content.encode()) for content in added.values()]
    return widths


def _by_bytes(text: str, ids: Ids, spans: list[Span], widths: NDArray[np.int64]) -> Flags | None:
    """By where tokens start in the UTF-8 text; None when the tokens are not the text's bytes one after the other."""
    size = widths[ids]
    starts = np.cumsum(size) - size
    plain = text.isascii()
    if (int(starts[-1] + size[-1]) if len(ids) else 0) != (len(text) if plain else len(text.encode("utf-8", "surrogatepass"))):
        return None
    trained = np.zeros(len(ids), dtype=np.bool_)
    for span in spans:
        first, last = np.searchsorted(starts, span if plain else [len(text[:c].encode("utf-8", "surrogatepass")) for c in span])
        trained[first:last] = True
    return trained


def _by_offsets(encoding: Encoding, spans: list[Span]) -> tuple[Ids, Flags]:
    """By the tokenizer's own character offsets."""
    ids = np.asarray(encoding.ids, dtype=np.int32)
    starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64, count=len(ids))
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        trained |= (starts >= start) & (starts < end)
    return ids, trained
