"""Rows that a program writes, for a real model: who was born where, when, and became what. `write(folder)`: questions with their texts.

Names, towns and years of the held-out rows do not occur in training.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

FIRST = (
    "Anna",
    "Bruno",
    "Clara",
    "David",
    "Elena",
    "Felix",
    "Greta",
    "Hugo",
    "Irene",
    "Jonas",
    "Karla",
    "Leo",
    "Marta",
    "Nils",
    "Olga",
    "Paul",
)
LAST = {
    "train": ("Adler", "Brandt", "Costa", "Dahl", "Engel", "Fischer", "Gruber", "Hansen", "Ibsen", "Jansen", "Keller", "Lorenz"),
    "eval": ("Moreau", "Novak", "Olsen", "Petrov", "Quint", "Rossi", "Silva", "Toth"),
}
TOWNS = {
    "train": ("Vienna", "Porto", "Oslo", "Leipzig", "Genoa", "Ghent", "Turku", "Lyon", "Cork", "Graz", "Bergen", "Malaga"),
    "eval": ("Prague", "Basel", "Krakow", "Turin", "Uppsala", "Bremen", "Seville", "Dundee"),
}
TRADES = {
    "train": ("a baker", "a sailor", "a teacher", "an organist", "a surgeon", "a clockmaker", "a printer", "a gardener"),
    "eval": ("a painter", "an engineer", "a weaver", "a librarian", "a miner"),
}
YEARS = {"train": range(1700, 1850), "eval": range(1850, 1950)}
REST = (
    "The winter was long that year.",
    "Little is known of the family.",
    "Letters from this time have been lost.",
    "Neighbours spoke well of the house.",
    "The parish books burned in a fire.",
    "A portrait hangs in the town hall.",
)


def person(chance: random.Random, part: str) -> dict[str, str]:
    """Somebody, with what there is to ask about."""
    name = f"{chance.choice(FIRST)} {chance.choice(LAST[part])}"
    born, moved = chance.sample(TOWNS[part], 2)
    return {"name": name, "born": born, "year": str(chance.choice(YEARS[part])), "moved": moved, "trade": chance.choice(TRADES[part])}


def story(chance: random.Random, one: dict[str, str]) -> list[str]:
    """What a text says of somebody."""
    told = [
        chance.choice(("{name} was born in {born} in {year}.", "In {year}, {name} was born in {born}.")),
        chance.choice(("Later {name} moved to {moved}.", "{name} went to live in {moved}.")),
        chance.choice(("{name} became {trade}.", "There {name} worked as {trade}.")),
    ]
    return [chance.choice(REST), *(line.format(**one) for line in told), chance.choice(REST)]


ASKED = {
    "born": ("Where was {name} born?", "In which town was {name} born?"),
    "year": ("When was {name} born?", "In which year was {name} born?"),
    "moved": ("Where did {name} move?", "Where did {name} live later?"),
    "trade": ("What did {name} become?", "What was the work of {name}?"),
}


def asked(chance: random.Random, part: str) -> dict[str, Any]:
    """A question about somebody, and the text that answers it."""
    one, what = person(chance, part), chance.choice(list(ASKED))
    context = " ".join(story(chance, one))
    answers = {"text": [one[what]], "answer_start": [context.index(one[what])]}
    return {"question": chance.choice(ASKED[what]).format(**one), "context": context, "answers": answers}


def write(folder: Path, *, rows: int = 400, held_out: int = 200) -> None:
    """`train.jsonl` and `eval.jsonl`."""
    for part, count, seed in (("train", rows, 1), ("eval", held_out, 2)):
        chance = random.Random(seed)
        lines = [json.dumps(asked(chance, part)) + "\n" for _ in range(count)]
        (folder / f"{part}.jsonl").write_text("".join(lines), encoding="utf-8")
