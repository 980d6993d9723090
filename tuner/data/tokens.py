"""Texts to token ids, and which of them start within given characters: `Encoder(tokenizer).encode(["a b"], [[(0, 1)]])` -> ids, trained.

With a byte-level BPE (GPT-2, Llama 3, Qwen, SmolLM …) a token's length in bytes is known from the vocabulary, so where tokens start is a
cumulative sum, and the tokenizer need not keep offsets. A row whose bytes do not add up, and any other tokenizer, goes by its offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase

from tuner.data.masks import Span
from tuner.errors import TuneError

Ids = NDArray[np.int32]
Flags = NDArray[np.bool_]
Bounds = NDArray[np.int64]
Fast = Callable[[list[str]], tuple[Ids, Bounds]]


class Encoder:
    """The Rust tokenizer itself, on all cores: Transformers' call would turn every offset into Python numbers.

    `fast` makes the ids instead where it is set (see fast.py): of n texts their ids one after the other, and where each begins [n + 1].
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if not tokenizer.is_fast:
            fix = "use a model whose tokenizer has a tokenizer.json"
            raise TuneError(f"{type(tokenizer).__name__} gives no character offsets, so masks cannot be made", "model.id", fix)
        self.backend: Any = tokenizer.backend_tokenizer
        self.backend.no_truncation()
        self.backend.no_padding()
        self.widths = byte_widths(self.backend)
        self.fast: Fast | None = None

    @property
    def name(self) -> str:
        """Who makes the ids, as `data.json` tells it."""
        return "fastokens" if self.fast else "huggingface"

    def encode(self, texts: list[str], spans: Sequence[list[Span]]) -> Iterator[tuple[Ids, Flags]]:
        """Of each text its token ids [T] and whether each token starts within one of the text's spans of characters [T]."""
        if self.widths is None:
            for encoding, wanted in zip(self.backend.encode_batch(texts, add_special_tokens=False), spans, strict=True):
                yield _by_offsets(encoding, wanted)
            return
        ids, bounds = self.ids(texts)
        trained, fits = _by_bytes(texts, spans, ids, bounds, self.widths)
        edges = bounds.tolist()
        for index, (start, end) in enumerate(pairwise(edges)):
            if fits[index]:
                yield ids[start:end], trained[start:end]
            else:
                yield _by_offsets(self.backend.encode(texts[index], add_special_tokens=False), spans[index])

    def ids(self, texts: list[str]) -> tuple[Ids, Bounds]:
        """All texts' ids one after the other [T], and where each text's begin [n + 1]."""
        return (self.fast or self.slow)(texts)

    def slow(self, texts: list[str]) -> tuple[Ids, Bounds]:
        """The same by the Hugging Face tokenizer, whatever `fast` is."""
        found = [np.asarray(e.ids, dtype=np.int32) for e in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        return np.concatenate(found), np.cumsum([0, *map(len, found)], dtype=np.int64)


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


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _by_bytes(
    texts: list[str], spans: Sequence[list[Span]], ids: Ids, bounds: Bounds, widths: NDArray[np.int64]
) -> tuple[Flags, list[bool]]:
    """By where tokens start in the UTF-8 texts; and of each text whether its tokens are its bytes one after the other."""
    ends = np.concatenate([[0], np.cumsum(widths[ids])])
    first = ends[bounds[:-1]]  # where each text's tokens begin, counted over all tokens
    lengths = np.fromiter(map(_bytes, texts), dtype=np.int64, count=len(texts))
    fits = (ends[bounds[1:]] - first == lengths).tolist()
    edges: list[int] = []
    for text, base, right, wanted in zip(texts, first.tolist(), fits, spans, strict=True):
        if right and text.isascii():
            edges += [base + edge for span in wanted for edge in span]
        elif right:
            edges += [base + _bytes(text[:edge]) for span in wanted for edge in span]
    marks = np.zeros(len(ids) + 1, dtype=np.int64)
    at = np.searchsorted(ends[:-1], edges)
    np.add.at(marks, at[::2], 1)
    np.add.at(marks, at[1::2], -1)
    return np.cumsum(marks[:-1]) > 0, fits


def _by_offsets(encoding: Encoding, spans: list[Span]) -> tuple[Ids, Flags]:
    """By the tokenizer's own character offsets."""
    ids = np.asarray(encoding.ids, dtype=np.int32)
    starts = np.fromiter((start for start, _ in encoding.offsets), dtype=np.int64, count=len(ids))
    trained = np.zeros(len(ids), dtype=np.bool_)
    for start, end in spans:
        trained |= (starts >= start) & (starts < end)
    return ids, trained
