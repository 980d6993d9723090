"""Rows with labels as token rows: `read(run, rows, "labelled")` -> texts and labels, `encoded(…)` -> LabelRows, `audit(…)` what they hold.

A text's label is a number (a class), a row of numbers (one a class, 0 or 1), or what is measured; a tagged text has one a token, and
IGNORE where a token is none of a word's first piece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.chat import TokenRow
from tuner.data.layout import Layout, read_all, recognise
from tuner.data.load import Rows
from tuner.data.mix import parts
from tuner.data.shapes import Example
from tuner.data.store import IGNORE
from tuner.data.turns import Misfit
from tuner.data.wanted import COLUMNS, LIKE, NAME
from tuner.errors import GATE, Problem, TuneError
from tuner.schema.data import Data, OnError, RowShape

BATCH = 1000
MEND = "mend or remove this row, or skip such rows with `data.on_error=skip`"
NAMED = f"{MEND}; `task.labels` names all labels"


@dataclass(slots=True, kw_only=True)
class LabelRow(TokenRow):
    """A text: token ids [T], which of the two texts of a pair each token is of [T], and its label: a number, or one a token [T].

    `words`: of each token that has a label the number of its word.
    """

    types: NDArray[np.int8]
    label: Any
    words: Sequence[int] = ()

    @property
    def item(self) -> dict[str, Any]:
        """The row as a trainer takes it."""
        label = self.label.tolist() if isinstance(self.label, np.ndarray) else self.label
        return {"input_ids": self.ids.tolist(), "token_type_ids": self.types.tolist(), "labels": label}

    @property
    def size(self) -> int:
        """What it takes in a batch, in tokens."""
        return len(self.ids)


@dataclass(frozen=True, kw_only=True)
class Found:
    """Rows of all sources: `examples`, and where each stands; what was skipped; how the rows are laid out, for data.json."""

    examples: list[Example]
    places: list[str]
    misfits: list[Problem]
    layouts: list[Layout]


def read(
    run: Run, rows: Rows, kinds: tuple[str, ...], *, holds: str = "", beside: str = "label", shape: RowShape = RowShape.auto, asks: str = ""
) -> Found:
    """Rows as Examples of one of some kinds, all of the same, which hold something by a name (`text`, `image`), and what is `beside` it.

    They are of a `shape`, where the recipe names none. `asks`: the columns to name, where the kind alone does not tell them.

    Raises TuneError (code 2) when they are something else.
    """
    found = Found(examples=[], places=[], misfits=[], layouts=[])
    sources = [part.data for part in parts(run)]
    for number in sorted(set(rows.part)):
        mine = rows.of_part(number)
        data = (*sources, run.recipe.data)[number]
        given = data.shape is not RowShape.auto
        layout, examples, misfits = read_all(mine, data if given else replace(data, shape=_of(mine, data, shape)), place=mine.place)
        lacks = bool(holds) and holds not in examples[0]
        if layout.kind not in kinds or lacks or (found.layouts and layout.kind != found.layouts[0].kind):
            name = f"{kinds[0]} {holds}" + ("" if beside == "label" else f" {beside}")
            like = f"rows of {{{asks}}}" if asks else LIKE.get(name) or " or ".join(LIKE[kind] for kind in kinds)
            like = like if layout.kind not in kinds or lacks else "rows of one kind"
            what = f"`task: {run.recipe.task.kind}` learns from {like}, and these rows are laid out as {layout}"
            fix = NAME.format(asks or f"{holds}: …, {beside}: …") if asks or holds else COLUMNS[kinds[0]]
            raise TuneError(what, mine.place(0), fix)
        gone = {problem.where for problem in misfits}
        found.examples.extend(examples)
        found.places.extend(place for index in range(len(mine)) if (place := mine.place(index)) not in gone)
        found.misfits.extend(misfits)
        found.layouts.append(layout)
    return found


def _of(rows: Rows, data: Data, shape: RowShape) -> RowShape:
    """The shape that a task's rows have, or whichever these have where they are none of its: what is wrong is then told by the task."""
    try:
        recognise(rows[0], replace(data, shape=shape))
    except TuneError:
        recognise(rows[0], data)
        return RowShape.auto
    return shape


def numbered(found: Found, number: Callable[[Example], Any], run: Run, *, fix: str = NAMED) -> tuple[Found, list[Any]]:
    """What `number` makes of all rows, such as the number of a label; `fix`: what to do about a row that has none.

    Raises TuneError (code 2) with the first that has none, unless such rows are to be skipped.
    """
    good, labels = Found(examples=[], places=[], misfits=list(found.misfits), layouts=found.layouts), []
    for example, place in zip(found.examples, found.places, strict=True):
        try:
            labels.append(number(example))
        except Misfit as misfit:
            good.misfits.append(Problem(what=str(misfit), where=place, fix=fix))
            if run.recipe.data.on_error is OnError.stop:
                raise TuneError(problems=good.misfits[-1:]) from misfit
            continue
        good.examples.append(example)
        good.places.append(place)
    if not labels:
        raise TuneError(problems=good.misfits[:10])
    return good, labels


def encoded(
    found: Found,
    labels: Sequence[Any],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    tick: Callable[[int], None] = lambda _: None,
) -> Iterator[LabelRow]:
    """Texts, or pairs of them, cut to `max_length` tokens, of a pair the longer one first; or words, each with its label."""
    for first in range(0, len(labels), BATCH):
        batch = found.examples[first : first + BATCH]
        texts = [e["tokens"] if "tokens" in e else _text(e["text"]) for e in batch]
        words = isinstance(texts[0], list)
        pairs = [_text(e["text_pair"]) for e in batch] if "text_pair" in batch[0] else None
        options: dict[str, Any] = {"truncation": True, "max_length": max_length, "is_split_into_words": words}
        coded = tokenizer(texts, pairs, return_token_type_ids=True, **options)
        for index, encoding in enumerate(coded.encodings):
            label, numbers = labels[first + index], list[int]()
            if words:
                label = _by_token(encoding.word_ids, label)
                numbers = [encoding.word_ids[place] for place in np.flatnonzero(label != IGNORE)]
            yield LabelRow(
                ids=np.asarray(encoding.ids, np.int32),
                types=np.asarray(coded["token_type_ids"][index], np.int8),
                trained=label != IGNORE if words else np.ones(len(encoding.ids), np.bool_),
                label=label,
                words=numbers,
                truncated=bool(encoding.overflowing),
                index=first + index,
            )
        tick(min(first + BATCH, len(labels)))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _by_token(words: Sequence[int | None], labels: Sequence[int]) -> NDArray[np.int64]:
    """A word's label at its first piece; IGNORE elsewhere."""
    before = [None, *words[:-1]]
    return np.asarray([labels[w] if w is not None and w != b else IGNORE for w, b in zip(words, before, strict=True)], np.int64)


def audit(rows: Sequence[LabelRow], found: Found, counts: Counter[str], sample: list[dict[str, Any]], unit: str) -> dict[str, Any]:
    """Counts over all rows, as `audit.json` holds them: how often each label is there, in `unit`s, and what was cut."""
    return {
        "rows": len(rows),
        "tokens": sum(len(row.ids) for row in rows),
        "supervised_tokens": int(sum(np.count_nonzero(row.trained) for row in rows)),
        "rows_fully_masked": sum(not row.trained.any() for row in rows),
        "rows_truncated": sum(row.truncated for row in rows),
        "labels": dict(counts.most_common()),
        "labels_of": unit,
        "first": found.places[0],
        "sample": sample,
    }


def gate(audited: dict[str, Any], *, max_length: int) -> None:
    """Raises TuneError (code 3) where there is nothing to tell apart, or nothing is left to learn."""
    where, labels = "label audit", audited["labels"]
    if audited["rows"] == 0 or audited["rows_fully_masked"] == audited["rows"]:
        what = f"no label of the rows is within task.max_length ({max_length} tokens); the first: {audited['first']}"
        raise TuneError(what, where, "raise `task.max_length`, or use `data.overlong=cut`", code=GATE)
    if len(labels) == 1:
        what = f"every {audited['labels_of']} has the label `{next(iter(labels))}`: there is nothing to tell apart"
        raise TuneError(
            what, where, "look at the column of labels (`data.columns`), or at `data.limit`, which takes the first rows", code=GATE
        )
