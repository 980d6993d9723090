"""Projects for tests of tasks with labels: `lab = labs.classes(folder)` over a tiny BERT, whose rows a model can learn."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tests.lab import Lab
from tests.tiny import make_encoder

RECIPE = """\
# small — a test
defaults: [{task: TASK}]
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 5e-3, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""
GOOD, BAD, REST = ("good", "fine", "warm"), ("bad", "poor", "cold"), ("a", "the", "film", "day", "very", "with")


@cache
def encoder() -> Path:
    """The tiny BERT, made once in a test session."""
    return make_encoder(Path(mkdtemp(prefix="encoder-")))


def make(folder: Path, task: str, row: Any, *, rows: int = 48, held_out: int = 24) -> Lab:
    """A project whose rows are `row(random, index)`."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("TASK", task).replace("MODEL", str(encoder())).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for name, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance = random.Random(seed)
        lines = [json.dumps(row(chance, index)) + "\n" for index in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return Lab(folder)


def words(chance: random.Random, *named: str) -> list[str]:
    """Some words in an order by chance."""
    found = [*named, *chance.choices(REST, k=chance.randint(0, 6))]
    chance.shuffle(found)
    return found


def classes(folder: Path, **options: Any) -> Lab:
    """Texts that are good or bad by some of their words."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        good = index % 2 == 0
        return {"text": " ".join(words(chance, *chance.choices(GOOD if good else BAD, k=3))), "label": "good" if good else "bad"}

    return make(folder, "classify", row, **options)


def several(folder: Path) -> Lab:
    """Texts of any number of classes."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        found = [name for name in ("good", "bad", "fever") if chance.random() < 0.5]
        return {"text": " ".join(words(chance, *found)), "label": found}

    return make(folder, "classify", row)


def numbers(folder: Path) -> Lab:
    """Pairs of texts and how many words both have."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        first, second = words(chance, "film"), words(chance, *chance.choice(((), ("good",), ("bad",))))
        return {"sentence1": " ".join(first), "sentence2": " ".join(second), "score": float(len({*first} & {*second}))}

    return make(folder, "classify", row)


def tags(folder: Path) -> Lab:
    """Illnesses, one of two words, one of several pieces."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        tokens, found = list[str](), list[str]()
        for word in words(chance, "fever", "unhappys", *chance.choice(((), ("gout",)))):
            tokens += ["cold", "fever"] if word == "fever" else [word]
            known = {"fever": ["B-Ill", "I-Ill"], "gout": ["B-Ill"], "unhappys": ["B-Mood"]}
            found += known.get(word, ["O"])
        return {"tokens": tokens, "tags": found}

    return make(folder, "tag", row)


def answers(folder: Path, *, without: bool = False, **options: Any) -> Lab:
    """Questions after an illness, or after how a day is (two words); `without`: of every fourth row the text does not say."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        ill, good = chance.choice(("fever", "gout")), f"very {chance.choice(GOOD + BAD)}"
        asks, answer = (("a film", ill), ("the day", good))[index % 2]
        missing = without and index % 4 > 1
        said = [text for text in (ill, good) if not (missing and text == answer)]
        parts = [*said, *chance.choices(("a", "the", "with", "no"), k=chance.randint(2, 8))]
        chance.shuffle(parts)
        context = " ".join(parts)
        found = {"text": [], "answer_start": []} if missing else {"text": [answer], "answer_start": [context.index(answer)]}
        return {"id": str(index), "title": "a day", "context": context, "question": asks, "answers": found}

    return make(folder, "qa", row, **options)


CATALOGUE = dict(zip((*GOOD, *BAD), ("day", "film", "very", "with", "fever", "gout"), strict=True))


def passages(folder: Path, *, kind: str = "label", **options: Any) -> Lab:
    """Queries, and texts of a catalogue of which one fits: each a row with its `label`, or a `triplet` a row, or `graded`."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        word = list(CATALOGUE)[(index // 4) % 6]
        query, (right, *wrong) = f"a {word}", _texts(word, chance, index // 4)
        if kind == "triplet":
            return {"query": query, "positive": right, "negative": wrong}
        which = (index % 4) if kind == "label" else index % 2
        label: Any = float(which == 0) if kind == "label" else (1.0, 0.25)[which]
        return {"query": query, "passage": [right, *wrong][which], "label": label}

    def _texts(word: str, chance: random.Random, number: int) -> list[str]:
        noise = random.Random(number).choices(("a", "the", "no", "un"), k=number % 2)
        others = random.Random(number).sample([text for name, text in CATALOGUE.items() if name != word], 3)
        return [" ".join([text, *noise]) for text in (CATALOGUE[word], *others)]

    return make(folder, "rerank", row, **options)


def alike(folder: Path, **options: Any) -> Lab:
    """Pairs of texts and how alike they are: whether both are good, or both bad."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        kinds = [chance.choice((GOOD, BAD)) for _ in range(2)]
        first, second = (" ".join(words(chance, *chance.choices(kind, k=3))) for kind in kinds)
        return {"sentence1": first, "sentence2": second, "score": 5.0 if kinds[0] is kinds[1] else chance.choice((0.0, 1.0))}

    return make(folder, "embed", row, **options)


def related(folder: Path, **options: Any) -> Lab:
    """What is asked, and what answers it: each question's word has an answer of its own."""

    def row(chance: random.Random, index: int) -> dict[str, Any]:
        word = chance.choice(list(CATALOGUE))
        noise = chance.choices(("a", "the", "no", "un"), k=index % 5)
        return {"anchor": " ".join([word, *noise]), "positive": " ".join([CATALOGUE[word]] * 2 + noise[:2])}

    return make(folder, "embed", row, **options)
