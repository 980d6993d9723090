"""Writes the quickstart's data, customer messages and their JSON tickets: `python scripts/make_tickets.py` (or `--check` to compare only).

The wording lives in `tickets.json`: a pool to train on, one to choose settings by (`dev`), and one, by an author who saw neither, for the
final score (`eval`). No two of them share a clause, product or name, so that a good score on eval.jsonl means sentences, things and
people that neither the model nor whoever set it up has seen. One row (shortened):

    {"messages": [{"role": "system", "content": "Reply only with JSON: ..."},
                  {"role": "user", "content": "The desk lamp has still not arrived. No rush.\\nThanks, Priya Raman"},
                  {"role": "assistant", "content": "{\\"intent\\": \\"delivery\\", \\"product\\": \\"desk lamp\\", ...}"}]}
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
OUT = HERE.parent / "tuner" / "conf" / "data" / "tickets"
POOLS: dict[str, dict[str, Any]] = json.loads((HERE / "tickets.json").read_text(encoding="utf-8"))

INTENTS = ["refund", "exchange", "repair", "delivery", "billing", "cancel"]
URGENCIES = ["low", "normal", "high"]
KEYS = ["intent", "product", "urgency", "customer"]
SYSTEM = f"Reply only with JSON: intent ({', '.join(INTENTS)}), product, urgency ({', '.join(URGENCIES)}), customer (name or null)."
ROWS = {"train": 900, "dev": 126, "eval": 126}
SEEDS = {"train": 1, "dev": 2, "eval": 3}

SITUATION = {"delivery": "ordered", "cancel": "ordered"}  # the others own the thing already
TYPOS = {"please": "pleas", "the": "teh", "and": "adn", "wrong": "worng", "would": "woud", "with": "wiht", "have": "hvae"}
SHARED_WORDS = 5  # no run of this many words may stand in two files

Row = dict[str, list[dict[str, str]]]


def misspell(text: str, rng: random.Random) -> str:
    """One common typing mistake in `text`, outside its `{slots}`; unchanged where no word offers itself."""
    words = text.split(" ")
    places = [i for i, word in enumerate(words) if word in TYPOS]
    if places:
        place = rng.choice(places)
        words[place] = TYPOS[words[place]]
    return " ".join(words)


def lines(pool: dict[str, Any], intent: str, urgency: str, signed: bool, rng: random.Random) -> list[str]:
    """The lines of one message (greeting, body, signature) with `{product}` and `{customer}` still open."""
    core = [rng.choice(pool["problems"][intent])]
    if rng.random() < 0.4:
        core.append(rng.choice(pool["details"][SITUATION.get(intent, "owned")]))
    cue = [] if urgency == "normal" else [rng.choice(pool["urgency"][urgency])]
    core = cue + core if rng.random() < 0.25 else core + cue
    close = [rng.choice(pool["urgency"]["normal"])] if rng.random() < (0.6 if urgency == "normal" else 0.15) else []
    body = core + close
    opener = [rng.choice(pool["openers"])] if rng.random() < 0.6 else []
    if not signed:
        return [*opener, " ".join(body)]
    if rng.random() < 0.3:
        return [*opener, " ".join([rng.choice(pool["introductions"]), *body])]
    return [*opener, " ".join(body), rng.choice(pool["signatures"])]


def row(pool: dict[str, Any], intent: str, urgency: str, rng: random.Random) -> Row:
    """One conversation: system, customer message, ticket. A fifth of the messages are typed carelessly."""
    product = rng.choice(pool["products"])
    if rng.random() < 0.25:
        product = rng.choice(pool["brands"]) + " " + product
    customer = None
    if rng.random() < 0.7:
        customer = rng.choice(pool["first_names"])
        if rng.random() < 0.7:
            customer += " " + rng.choice(pool["last_names"])
    text = "\n".join(lines(pool, intent, urgency, customer is not None, rng))
    style = rng.random()
    if style < 0.12:
        text = text.lower()
    elif style < 0.22:
        text = misspell(text, rng)
    message = text.format(product=product, customer=customer)
    ticket = dict(zip(KEYS, [intent, product, urgency, customer], strict=True))
    contents = {"system": SYSTEM, "user": message, "assistant": json.dumps(ticket)}
    return {"messages": [{"role": role, "content": content} for role, content in contents.items()]}


def rows(split: str) -> list[Row]:
    """All rows of a split: every pair of intent and urgency equally often, no message twice, in a seeded order."""
    rng = random.Random(SEEDS[split])
    pairs = [(intent, urgency) for intent in INTENTS for urgency in URGENCIES]
    found: dict[str, Row] = {}
    while len(found) < ROWS[split]:
        made = row(POOLS[split], *pairs[len(found) % len(pairs)], rng)
        found.setdefault(made["messages"][1]["content"], made)
    made_rows = list(found.values())
    rng.shuffle(made_rows)
    return made_rows


def clauses(split: str) -> Iterator[str]:
    """Every clause of a pool, as written in `tickets.json`."""
    pool = POOLS[split]
    yield from (*pool["openers"], *pool["introductions"], *pool["signatures"])
    for group in ("problems", "details", "urgency"):
        for texts in pool[group].values():
            yield from texts


def _pattern(clause: str) -> re.Pattern[str]:
    """`clause` as it would stand in a message, whatever fills its slots."""
    open_slots = re.sub(r"\\{\w+\\}", r"[\\w .-]+?", re.escape(clause))
    return re.compile(rf"(?<!\w){open_slots}" + r"(?!\w)", re.IGNORECASE)


def _messages(some_rows: list[Row]) -> list[str]:
    return [r["messages"][1]["content"] for r in some_rows]


def _runs(split: str) -> set[tuple[str, ...]]:
    """Every run of SHARED_WORDS words inside one clause of a pool."""
    runs = set()
    for clause in clauses(split):
        words = re.findall(r"[\w'{}]+", clause.lower())
        runs |= {tuple(words[i : i + SHARED_WORDS]) for i in range(len(words) - SHARED_WORDS + 1)}
    return runs


def separation(one: str, its_rows: list[Row], other: str, other_rows: list[Row]) -> list[str]:
    """What two splits share though they must not, one line each; empty when the rows of one are truly unseen in the other."""
    shared = [f"five words in both {one} and {other}: {' '.join(run)}" for run in sorted(_runs(one) & _runs(other))]
    for split, foreign in ((one, other_rows), (other, its_rows)):
        text = "\n".join(_messages(foreign))
        pool = POOLS[split]
        for clause in clauses(split):
            if _pattern(clause).search(text):
                shared.append(f"clause of {split} in another file: {clause}")
        for value in (*pool["brands"], *pool["products"], *pool["first_names"], *pool["last_names"]):
            if re.search(rf"\b{re.escape(value)}\b", text, re.IGNORECASE):
                shared.append(f"slot value of {split} in another file: {value}")
    return shared


def overlaps() -> list[str]:
    """`separation` of every two splits as they are made now."""
    made = {split: rows(split) for split in ROWS}
    return [line for one, other in combinations(ROWS, 2) for line in separation(one, made[one], other, made[other])]


def render(split: str) -> str:
    """The text of the split's JSONL file."""
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows(split))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 when a file differs or the pools overlap")
    check = parser.parse_args().check
    problems = overlaps()
    for split in ROWS:
        path = OUT / f"{split}.jsonl"
        text = render(split)
        if check and (not path.is_file() or path.read_text(encoding="utf-8") != text):
            problems.append(f"{path} is not what this script writes")
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    sys.stderr.write("".join(f"{p}\n" for p in problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
