"""Tiny random models that are made in a moment: a Llama with ChatML (`make_model(folder)`), a BERT (`make_encoder(folder)`)."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, BertTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_model(folder: Path, *, template: str | None = TEMPLATE, dtype: str = "float32") -> Path:
    """Write model and tokenizer into `folder`, the same bytes every time."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<|im_start|>", "<|im_end|>"]
    vocabulary = {token: index for index, token in enumerate([*specials, *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        dtype=dtype,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int, *, start: int = 0) -> Path:
    """Chat rows that a model can learn: the answer repeats a letter of the question as JSON."""
    with path.open("w", encoding="utf-8") as stream:
        for index in range(start, start + count):
            letter = chr(97 + index % 26)
            messages = [{"role": "user", "content": f"{letter}{index}?"}, {"role": "assistant", "content": json.dumps({"letter": letter})}]
            stream.write(json.dumps({"messages": messages}) + "\n")
    return path


WORDS = (
    "good",
    "fine",
    "warm",
    "bad",
    "poor",
    "cold",
    "a",
    "the",
    "film",
    "day",
    "very",
    "with",
    "fever",
    "gout",
    "no",
    "un",
    "##happy",
    "##s",
)


def make_encoder(folder: Path) -> Path:
    """A tiny random BERT whose tokenizer knows WORDS (pieces among them): for tasks with labels."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer = BertTokenizer(vocab={token: index for index, token in enumerate([*specials, *WORDS])})
    tokenizer.save_pretrained(folder)
    set_seed(0)
    config = BertConfig(
        vocab_size=len(specials) + len(WORDS),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,  # so that two processes learn as one
        attention_probs_dropout_prob=0.0,
        initializer_range=0.2,  # with 0.02 so few dimensions tell words hardly apart
        dtype="float32",
    )
    BertForMaskedLM(config).save_pretrained(folder)
    return folder
