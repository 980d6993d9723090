"""Recognises how rows are laid out by their columns: `recognise(row, data)` -> a Layout, whose `read(row)` gives an Example (shapes.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tuner.data.shapes import ALSO, SAID, SHAPES, Example, Row, Shape
from tuner.data.turns import Misfit
from tuner.errors import Problem, TuneError
from tuner.schema.data import Data, OnError, RowShape


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A recognised shape over the columns of some rows. `columns`: our name -> theirs, or a template, where the two differ."""

    shape: RowShape
    columns: dict[str, str]

    @property
    def kind(self) -> str:
        """The kind of Example that `read` gives."""
        return SHAPES[self.shape].kind

    def read(self, row: Row) -> Example:
        """A row as an Example. Raises Misfit saying what it lacks."""
        if self.columns:
            row = row | {ours: filled(theirs, row) for ours, theirs in self.columns.items()}
        return SHAPES[self.shape].read(row)

    def __str__(self) -> str:
        """`prompt_completion (prompt: query, completion: response)`."""
        names = ", ".join(f"{ours}: {theirs}" for ours, theirs in self.columns.items())
        return f"{self.shape} ({names})" if names else str(self.shape)


_SLOT = re.compile(r"\{(\w[\w .-]*)\}")


def filled(template: str, row: Row) -> Any:
    """A column's value, or the text of a template with columns in braces; an absent or empty one leaves nothing, and no line of its own."""
    if "{" not in template:
        return row.get(template)
    lines = [
        line for line in template.split("\n") if not (slots := _SLOT.findall(line)) or any(row.get(s) not in (None, "") for s in slots)
    ]
    return _SLOT.sub(lambda m: str(row.get(m.group(1)) if row.get(m.group(1)) is not None else ""), "\n".join(lines))


def recognise(row: Row, data: Data) -> Layout:
    """The layout of rows like this one: as said in the recipe, or by its columns.

    Raises TuneError (code 2) that shows the columns, the row and the nearest shapes.
    """
    named = [s for theirs in data.columns.values() for s in (_SLOT.findall(theirs) if "{" in theirs else [theirs])]
    if unknown := [name for name in named if name not in row]:
        raise TuneError(f"`data.columns` names {unknown}, but the rows have {sorted(row)}", "data.columns", "use the names of the rows")
    given = dict(data.columns)
    wanted: list[RowShape] = [shape for shape in SHAPES if shape is not RowShape.prompt] if data.shape is RowShape.auto else [data.shape]
    for exact in (True, False):
        for shape in wanted:
            columns = _columns(SHAPES[shape], row, given, exact=exact, said=len(wanted) == 1)
            if columns is not None and _holds(shape, row | dict.fromkeys(given), columns, said=len(wanted) == 1):
                return Layout(shape=shape, columns=columns)
    raise _unknown(row, data, wanted)


def query_column(row: Row, data: Data) -> str | None:
    """The column whose values belong together, of rows of a query and a passage; None of others, and where transforms lay them out."""
    try:
        layout = recognise(row, data)
    except TuneError:
        return None
    name = layout.columns.get("query", "query")
    return name if layout.shape is RowShape.passage and "{" not in name else None


def read_all(
    rows: Sequence[Row], data: Data, *, place: Callable[[int], str], known: Layout | None = None
) -> tuple[Layout, list[Example], list[Problem]]:
    """(layout, examples, rows that were skipped). `place` tells where a row by its index stands; `known`: the layout, of further rows.

    Raises TuneError (code 2) with the first row that does not fit, unless `data.on_error` is `skip`, or when none is left.
    """
    layout = known or recognise(rows[0], data)
    found: list[Example] = []
    skipped: list[Problem] = []
    for index, row in enumerate(rows):
        try:
            found.append(layout.read(row))
        except Misfit as misfit:
            what = f"not laid out as {layout.shape}{', as the first row is' if index else ''}: {misfit}"
            skipped.append(Problem(what=what, where=place(index), fix=f"mend or remove this row: {str(row)[:160]}"))
            if data.on_error is OnError.stop:
                raise TuneError(problems=skipped) from misfit
    if not found and known is None:
        raise TuneError(problems=skipped[:10])
    if data.system:
        for example in found:
            talk = example.get("messages", example.get("prompt"))
            if talk is not None and talk[0]["role"] != "system":
                talk.insert(0, {"role": "system", "content": data.system})
                if "answers_from" in example:
                    example["answers_from"] += 1
    return layout, found, skipped


def shared_system(found: list[Example]) -> str | None:
    """The system message that every conversation opens with, when it is one and the same: what a user of the result should send too."""
    texts = {str(e["messages"][0]["content"]) if e["messages"][0]["role"] == "system" else None for e in found}
    return texts.pop() if len(texts) == 1 else None


def _columns(shape: Shape, row: Row, given: dict[str, str], *, exact: bool, said: bool) -> dict[str, str] | None:
    """Our names -> theirs where they differ; None when a needed one is missing."""
    found = dict(given)
    for name in (*shape.needs, *shape.may_have):
        if name in row or name in found:
            continue
        others = (*(() if exact else ALSO.get(name, ())), *(SAID.get(name, ()) if said else ()))
        other = next((a for a in others if a in row and a not in found.values()), None)
        if other is not None:
            found[name] = other
        elif name in shape.needs:
            return None
    return found


def _holds(shape: RowShape, row: Row, columns: dict[str, str], *, said: bool) -> bool:
    """What column names alone do not tell: a label of a conversation is true or false (or where that was `said`, what is read as one);
    a pair, or a question, has something to learn."""
    have = set(row) | set(columns)
    if shape is RowShape.unpaired_preference:
        label = row.get(columns.get("label", "label"))
        return (said or isinstance(label, bool)) and bool(have & {"messages", "conversations", "completion"})
    if shape is RowShape.answers:
        return bool(have & {"answers", "answer"})
    if shape is RowShape.passage and "negative" in have:
        return False
    return shape not in (RowShape.pair, RowShape.passage) or bool(have & {"score", "label"})


def _unknown(row: Row, data: Data, wanted: list[RowShape]) -> TuneError:
    have = set(row) | set(data.columns)
    near = sorted(wanted, key=lambda s: (-len(have.intersection(SHAPES[s].needs)), len(SHAPES[s].needs)))[:4]
    shapes = "; ".join(f"{s} ({', '.join(SHAPES[s].needs)})" for s in near)
    expected = "no known shape" if data.shape is RowShape.auto else f"not `data.shape={data.shape}`"
    fix = (
        f"nearest shapes and what they need: {shapes}. Say which column is which: `data.columns={{prompt: your_column, completion: other}}`"
    )
    if not data.names and all(isinstance(v, str) for v in row.values()):  # a table
        fix += "; a table without a header line needs `data.names=[…]`"
    return TuneError(f"{expected}: the rows have the columns {sorted(row)}; the first row: {str(row)[:200]}", "data", fix)
