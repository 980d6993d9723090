"""A faster tokenizer where it writes the same ids: `encoder_for(examples, tokenizer, task, choice=Backend.auto, tell=print)` -> Encoder.

fastokens (the extra `fast`) reads the same tokenizer.json and takes a quarter of the time, less where texts repeat. It is taken for a
byte-level BPE, and only after it wrote the ids of the Hugging Face tokenizer for texts of these very rows and for awkward ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import render
from tuner.data.forms import Forms
from tuner.data.masks import Masker
from tuner.data.tokens import Bounds, Encoder, Fast, Ids
from tuner.data.turns import Example
from tuner.errors import ENVIRONMENT, TuneError
from tuner.registry import load
from tuner.schema.data import Backend
from tuner.schema.task import Sft

SAMPLE = 100  # texts from the start, and as many spread over the rest
WORTH_CHARACTERS = 2_000_000  # a second tokenizer and its check take 0.3 s, as the Hugging Face one needs for so much text
SEGMENTS_BYTES = 64 << 20  # kept: what stands between special tokens, so that a system prompt is tokenized once
AWKWARD = (
    "",
    " ",
    "\n\n\n  \t x\r\n\r\n",
    "😀👩‍👩‍👧🇩🇪☺️ naïve café Ünïcödé ﬁ",
    "日本語の文章。汉字漢字テスト한국어 ภาษาไทย नमस्ते",
    "שלום العربية ٠١٢٣ ΑΒΓ Привет",
    "0 12 345 6789 0123456789 3.14 1,000,000 ² ½ Ⅷ ①  7",
    "\x00\x01\x04\x07\x1b[0m\x7f\x80\x9f\u200b\ufeff\u2028\ufffd",
    "don't I'LL you’ve 'tis rock'n'roll",
    "x" * 5000 + " " * 500 + "\n" * 200 + "ab" * 3000,
    "a\u0301\u0308 e\u0301 \u00a0\u2003\u3000 \U0010ffff\ue000",
    "def f(x):\n    return {'a': [1, 2]}  # <b>&amp;</b> https://a.b/c?d=e_f#g\n",
)


class Refused(Exception):
    """Why the fast tokenizer is not taken."""


def encoder_for(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, task: Sft, *, choice: Backend, tell: Callable[[str], None]
) -> Encoder:
    """The tokenizer for these conversations: the fast one when it is there, worth it and equal on a sample, else the Hugging Face one.

    Raises TuneError (code 4) when the fast one was asked for and cannot be had.
    """
    encoder = Encoder(tokenizer)
    if choice is Backend.huggingface:
        return encoder
    texts = _sample(examples, Forms(Masker(tokenizer)), task)
    if choice is Backend.auto and len(examples) * sum(map(len, texts)) < WORTH_CHARACTERS * len(texts):
        return encoder
    try:
        encoder.fast = _checked(encoder, texts)
    except ImportError as error:
        if choice is Backend.fast:
            what, fix = "data.tokenizer=fast needs fastokens, which is not installed", 'pip install "tuner[fast]"'
            raise TuneError(what, "data.tokenizer", fix, code=ENVIRONMENT) from error
    except Refused as reason:
        if choice is Backend.fast:
            fix = "`data.tokenizer=auto` takes the Hugging Face tokenizer"
            raise TuneError(f"data.tokenizer=fast cannot be had: {reason}", "data.tokenizer", fix, code=ENVIRONMENT) from reason
        tell(f"the Hugging Face tokenizer is used for all rows: {reason}")
    return encoder


def _sample(examples: Sequence[Example], forms: Forms, task: Sft) -> list[str]:
    """The texts of the first conversations and of some spread over the others; one that the template refuses is told of in its turn."""
    texts = []
    for example in (*examples[:SAMPLE], *examples[SAMPLE :: max(1, (len(examples) - SAMPLE) // SAMPLE)]):
        with contextlib.suppress(TuneError):
            texts.append(render(example, forms, task.loss_on)[0])
    return texts


def _checked(encoder: Encoder, texts: list[str]) -> Fast:
    """The fast tokenizer, after it wrote the same ids. Raises ImportError without the package, Refused otherwise."""
    fastokens = load("fastokens")
    if encoder.widths is None:
        raise Refused("it is no byte-level BPE that leaves its text as it is, and only such a one has a fast twin")
    try:
        fast = fastokens.Tokenizer.from_json_str(encoder.backend.to_str())
        fast.enable_segment_cache(SEGMENTS_BYTES)
    except ValueError as error:
        raise Refused(f"fastokens cannot read it ({str(error).splitlines()[0][:120]})") from error

    def ids(texts: list[str]) -> tuple[Ids, Bounds]:
        flat, bounds = fast.encode_batch_flat(texts)
        return np.frombuffer(flat, dtype=np.int32), np.frombuffer(bounds, dtype=np.int64)

    marks = [token.content for token in encoder.backend.get_added_tokens_decoder().values()]
    sample = [*texts, *AWKWARD, *(text for mark in marks for text in (f"a {mark} b{mark}\n{mark[:-1]}", f"{mark}{mark}7"))]
    (wanted, right), (got, bounds) = encoder.slow(sample), ids(sample)
    for text, a, b, c, d in zip(sample, right, right[1:], bounds, bounds[1:], strict=False):
        if not np.array_equal(wanted[a:b], got[c:d]):
            raise Refused(f"fastokens writes other ids, first for {text[:60]!r}")
    return ids
