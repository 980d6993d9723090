"""A language that a program made up, of 60 words, and a T5 by chance that is to learn it: `write(folder)` -> rows, and `folder/t5`.

All words are other ones; the adjective stands behind its noun and the article behind both; the verb is the last word.
"""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, T5Config, T5ForConditionalGeneration, set_seed

ARTICLES = "the a"
ADJECTIVES = "red big old wet kind loud quick sad green tall young dry brave quiet slow glad"
NOUNS = "dog cat house king ship tree bird child river horse fox farmer door stone cloud baker wolf boat girl goat moon hill"
VERBS = "sees likes finds hears follows wants carries paints knows loses moves meets holds hides calls needs sells builds takes asks"
ENGLISH = f"{ARTICLES} {ADJECTIVES} {NOUNS} {VERBS}".split()
SYLLABLES = [a + b for a, b in product("bdfgklmnprstvz", "aeiou")]


def lexicon() -> dict[str, str]:
    """An invented word for each."""
    chance, made = random.Random(7), dict[str, str]()
    while len(set(made.values())) < len(ENGLISH):
        made = {word: "".join(chance.sample(SYLLABLES, chance.randint(1, 3))) for word in ENGLISH}
    return made


def sentence(chance: random.Random) -> tuple[list[str], list[str]]:
    """A sentence in English, and its words in the other order: noun, adjective, article; the verb last."""
    source, target = list[str](), list[str]()
    verb = chance.choice(VERBS.split())
    for number in (0, 1):
        article, noun = chance.choice(ARTICLES.split()), chance.choice(NOUNS.split())
        adjectives = [chance.choice(ADJECTIVES.split())] if chance.random() < 0.6 else []
        source += [*([verb] if number else []), article, *adjectives, noun]
        target += [noun, *adjectives, article]
    return source, [*target, verb]


def write(folder: Path, *, rows: int, held_out: int) -> None:
    """`train.jsonl` and `dev.jsonl`, which share no sentence, and the T5."""
    words, chance, seen = lexicon(), random.Random(0), set[str]()
    while len(seen) < rows + held_out:
        source, target = sentence(chance)
        seen.add(json.dumps({"source": " ".join(source), "target": " ".join(words[word] for word in target)}))
    lines = sorted(seen)
    chance.shuffle(lines)
    (folder / "train.jsonl").write_text("\n".join(lines[held_out:]) + "\n", encoding="utf-8")
    (folder / "dev.jsonl").write_text("\n".join(lines[:held_out]) + "\n", encoding="utf-8")
    known = ["<pad>", "</s>", "<unk>", *ENGLISH, *words.values()]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(dict.fromkeys(known))}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder / "t5")
    set_seed(0)
    sizes = {"d_model": 96, "d_kv": 24, "d_ff": 192, "num_layers": 2, "num_heads": 4, "dropout_rate": 0.0}
    config = T5Config(vocab_size=len(raw.get_vocab()), **sizes, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, dtype="float32")
    T5ForConditionalGeneration(config).save_pretrained(folder / "t5")
