"""Texts to read on in, of Wikipedia: 25 articles, and the beginnings of five others; a Llama for them. `articles.write(folder, shared)`."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, PreTrainedTokenizerFast

BEGINNING = 5000  # characters of a held-out article


def write(folder: Path, shared: Path, *, words: int | None = None) -> None:
    """`train.txt` and `dev.txt`, an article a line; or pieces of so many `words`."""
    found = (shared / "wikipedia_text" / "train.txt").read_text(encoding="utf-8").splitlines()
    for name, texts in (("train", found[:-5]), ("dev", [text[:BEGINNING] for text in found[-5:]])):
        if words:
            split = [text.split() for text in texts]
            texts = [" ".join(text[at : at + words]) for text in split for at in range(0, len(text), words)]
        (folder / f"{name}.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")


def llama(folder: Path) -> int:
    """Configuration and tokenizer of `folder/llama`, which has no weights: pieces of words of `train.txt`. Returns how many there are."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learner = trainers.BpeTrainer(vocab_size=1024, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator((folder / "train.txt").read_text(encoding="utf-8").splitlines(), learner)
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|end|>", pad_token="<|end|>").save_pretrained(folder / "llama")
    config = LlamaConfig(
        vocab_size=1024,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder / "llama")
    return 1024
