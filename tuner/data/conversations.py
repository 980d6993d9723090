"""Rows of a run as conversations, tokenized, audited and written: `prepare(run, rows, tokenizer, task, folder)`; what chat tasks share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.audit import audit, gate, segments, statistics
from tuner.data.chat import TokenRow, end_of_turn, how_turns_end, tokenize
from tuner.data.fast import encoder_for
from tuner.data.layout import Layout, read_all, shared_system
from tuner.data.load import Rows
from tuner.data.masks import Masker
from tuner.data.mix import parts
from tuner.data.splits import held_out, tell_skipped
from tuner.data.store import write_packs, write_rows
from tuner.data.turns import Example, is_silent
from tuner.errors import Problem, TuneError
from tuner.runs import write_json
from tuner.schema.data import Data, Overlong
from tuner.schema.task import Sft


@dataclass(frozen=True, kw_only=True)
class Talks:
    """The conversations of one source; `name` is empty where there is one source only."""

    name: str
    layout: Layout
    examples: list[Example]
    misfits: list[Problem]
    rows: Rows

    @property
    def first(self) -> str:
        """Where its first conversation stands, for messages."""
        skipped = {problem.where for problem in self.misfits}
        return next(place for index in range(len(self.rows)) if (place := self.rows.place(index)) not in skipped)


def conversations(run: Run, rows: Rows) -> list[Talks]:
    """Rows as conversations, by source. Raises TuneError (code 2) when they are something else."""
    found = [(part.name, part.data) for part in parts(run)]
    numbers, task = sorted(set(rows.part)), run.recipe.task.kind
    return [talks(rows.of_part(number), (*found, ("", run.recipe.data))[number], task=task) for number in numbers]


def talks(rows: Rows, source: tuple[str, Data], known: Layout | None = None, *, task: str = "sft") -> Talks:
    """The rows of one source (its name, its keys), laid out as the first one is; or, of further rows, as is `known`."""
    name, data = source
    layout, examples, misfits = read_all(rows, data, place=rows.place, known=known)
    if layout.kind == "conversation":
        return Talks(name=name, layout=layout, examples=examples, misfits=misfits, rows=rows)
    fix = "name the columns that make a conversation: `data.columns={prompt: …, completion: …}`"
    if layout.kind in ("preference", "unpaired"):
        fix = "`data.shape=messages` (or `sharegpt`) learns each conversation whatever its label; or " + fix
    if layout.kind == "answered":
        fix = "`task: qa` learns where the answer stands; `data.shape=question_answer` passes over the context; or " + fix
    raise TuneError(f"`task: {task}` learns from conversations, and these rows are laid out as {layout}", rows.place(0), fix)


def prepare(run: Run, rows: Rows, tokenizer: PreTrainedTokenizerBase, task: Sft, folder: Path) -> None:
    """Render, tokenize and mask; audit; write what can teach, and `data.json`, `audit.json`."""
    found = conversations(run, rows)
    examples = [example for source in found for example in source.examples]
    for source in found:
        run.tell(f"{f'{source.name}: ' if source.name else ''}the rows are laid out as {source.layout}")
        tell_skipped(run, source.misfits)
    if any(e["tools"] for e in examples) and not Masker(tokenizer).knows_tools:
        run.tell("the model's chat template knows no tools: they are written as text, calls as <tool_call>{…}</tool_call>")
    if told := how_turns_end(tokenizer):
        run.tell(told)
    data = run.recipe.data
    encoder = encoder_for(examples, tokenizer, task, choice=data.tokenizer, tell=run.tell)
    with run.progress("rows prepared", len(examples)) as tick:
        tokens = list(tokenize(examples, tokenizer, task, encoder=encoder, pieces=data.overlong is Overlong.split, tick=tick))
    whole = [row for row in tokens if not row.truncated] if data.overlong is Overlong.drop else tokens
    counts: dict[str, Any] = {
        "conversations": len(examples),
        "rows_dropped": len(tokens) - len(whole),
        "rows_without_answer": sum(map(is_silent, examples)),
        "first": next(source.first for source in found if source.examples),
    }
    audited = audit(whole, tokenizer, end_of_turn=end_of_turn(tokenizer)) | counts
    gate(audited, max_length=task.max_length)
    kept = [row for row in whole if row.supervised]
    write_rows(folder, kept)
    facts: dict[str, Any] = {
        "train": statistics(kept),
        "eval": {"rows": len(held_out(run))},
        "source": _source(data, found),
        "system": shared_system(examples),
        "tokenizer": encoder.name,
    }
    if data.mix:
        facts["sources"] = _by_source(found, kept)
    if task.packing:
        packs = write_packs(folder, [len(row.ids) for row in kept], task.max_length)
        fill = sum(len(row.ids) for row in kept) / (len(packs) * task.max_length)
        facts["packs"] = {"rows": len(packs), "capacity": task.max_length, "fill": round(fill, 4)}
    if skipped := [asdict(problem) for problem in (*rows.skipped, *(m for source in found for m in source.misfits))]:
        write_json(folder / "skipped.json", skipped)
        facts["skipped"] = {"rows": len(skipped), "first": [f"{p['where']}: {p['what']}" for p in skipped[:10]]}
    write_json(folder / "data.json", facts)
    write_json(folder / "audit.json", audited)


def shown(run: Run, rows: Rows, index: int, tokenizer: PreTrainedTokenizerBase, task: Sft) -> dict[str, Any]:
    """One training row as the model sees it."""
    (source,) = conversations(run, rows[index : index + 1])
    (row,) = tokenize(source.examples, tokenizer, task)
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    return {"place": rows.place(index), "source": source.name, **counts, "segments": segments(row, tokenizer)}


def _source(data: Data, found: list[Talks]) -> dict[str, Any]:
    """Where the rows are from; of a mix the layouts of all sources."""
    shapes = ", ".join(dict.fromkeys(source.layout.shape.value for source in found))
    columns = found[0].layout.columns if len(found) == 1 else {}
    return {"path": data.path, "id": data.id, "format": data.format.value, "shape": shapes, "columns": columns}


def _by_source(found: list[Talks], kept: list[TokenRow]) -> list[dict[str, Any]]:
    """Of each source of a mix what it gives to the training: rows and tokens, their shares, lengths, what is cut and what is trained."""
    tokens = sum(len(row.ids) for row in kept)
    entries, first = [], 0
    for source in found:
        last = first + len(source.examples)
        mine = [row for row in kept if first <= row.index < last]
        first = last
        entry: dict[str, Any] = {"name": source.name, "shape": source.layout.shape.value, "rows": len(mine)}
        if mine:
            about = statistics(mine)
            entry |= about | {
                "row_share": round(len(mine) / len(kept), 4),
                "token_share": round(about["tokens"] / tokens, 4),
                "trained_share": round(about["supervised_tokens"] / about["tokens"], 4),
                "truncated": sum(row.truncated for row in mine),
            }
        entries.append(entry)
    return entries
