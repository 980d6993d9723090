"""Training rows and held-out rows of a run: from files, a database, Hub splits, or a seeded share. `split(run)` -> (train, held out)."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tuner.context import Run
from tuner.data import contamination
from tuner.data.heads import heads
from tuner.data.hub import hub_rows
from tuner.data.kept import kept
from tuner.data.load import Rows, read_rows
from tuner.data.mix import Part, drawn, parts, wanted_sizes
from tuner.data.options import unread
from tuner.data.parted import parted
from tuner.data.transform import apply, ready, told
from tuner.errors import GATE, Problem, TuneError
from tuner.schema.data import Contamination, Data, Format, source_key
from tuner.schema.passages import Rerank
from tuner.schema.transforms.reading import steps

MOST_SHOWN = 5


def split(run: Run) -> tuple[Rows, Rows]:
    """(training rows, held-out rows), transformed as `data.transforms` says; what was done is in `facts`.

    Raises TuneError (code 2) when nothing is left to train on or to measure, (code 3) under `data.contamination: stop`.
    """
    train, _ = run.keep("training rows", lambda: _training(run))
    return train, held_out(run)


def held_out(run: Run) -> Rows:
    """The held-out rows, in the shape that training rows get; none is dropped."""
    rows: Rows = run.keep("held-out rows", lambda: _held_out(run))
    return rows


def facts(run: Run) -> dict[str, Any]:
    """What was done to the training rows, for data.json: {"transforms": a report a step, "mix": an entry a source, "contamination": …}."""
    found: dict[str, Any] = run.keep("training rows", lambda: _training(run))[1]
    return found


def _read(run: Run) -> tuple[Rows, Rows, dict[str, Any]]:
    train, held_out, done = run.keep("rows", lambda: _split(run))
    return train, held_out, done


def _held_out(run: Run) -> Rows:
    measured = run.plan.stage("baseline") if run.plan.has("baseline") else None
    if measured and measured.done and (found := kept(Path(measured.folder))) is not None:
        return found
    return apply(_read(run)[1], steps(run.recipe.data.transforms), seed=run.recipe.seed, held_out=True)[0]


def _training(run: Run) -> tuple[Rows, dict[str, Any]]:
    """(training rows, facts)."""
    data = run.recipe.data
    rows, _, done = _read(run)
    rows, reports = apply(rows, steps(data.transforms), seed=run.recipe.seed)
    for report in reports:
        run.tell(f"transform {told(report)}")
    kept_apart = held_out(run)
    if not kept_apart:
        return rows, done | {"transforms": done["transforms"] + reports}
    found = contamination.overlap(rows, kept_apart)
    about = contamination.summary(found, train=len(rows), held_out=len(kept_apart))
    about["done"] = data.contamination.value
    if found.rows:
        run.tell(f"contamination: {contamination.told(about)}")
        if data.contamination is Contamination.stop:
            fix = "drop them with `data.contamination=drop`, or hold out other rows"
            raise TuneError(contamination.told(about), "data.contamination", fix, code=GATE)
        if data.contamination is Contamination.drop:
            rows = _dropped(rows, set(found.rows))
    return rows, done | {"transforms": done["transforms"] + reports, "contamination": about}


def _dropped(rows: Rows, gone: set[int]) -> Rows:
    if len(gone) == len(rows):
        what = f"all {len(rows):,} training rows hold parts of held-out rows, and `data.contamination=drop` drops them"
        raise TuneError(what, "data.contamination", "hold out other rows, or set `data.contamination=report`")
    return rows.take(i for i in range(len(rows)) if i not in gone)


def _split(run: Run) -> tuple[Rows, Rows, dict[str, Any]]:
    """(training rows of all sources, held-out rows, what was done): each source read, parted, transformed by its own steps, then mixed."""
    data, seed, found = run.recipe.data, run.recipe.seed, parts(run)
    ready([*steps(data.transforms), *(step for part in found for step in part.transforms)])
    beginnings = heads(run) if data.streaming else []
    read = [head.sample for head in beginnings] or [_read_part(run, part) for part in found]
    if data.eval_path:
        held_out = [Rows()] * len(read)
        apart = read_rows(run.plan.files["data.eval_path"], _of_files(data))
        tell_skipped(run, apart.skipped)
    elif data.eval_split:
        held_out, apart = [Rows()] * len(read), hub_rows(data, data.eval_split, key="data.eval_split")
    elif beginnings:
        held_out, apart = [head.apart for head in beginnings], Rows()
    else:
        read, held_out = parted(read, found, data, seed, by_query=isinstance(run.recipe.task, Rerank))
        apart = Rows()
    for rows in [*(head.apart for head in beginnings), *(head.sample for head in beginnings)]:
        tell_skipped(run, rows.skipped)
    reports = []
    unread(found, read, apart)
    for index, part in enumerate(found):
        own, where = part.transforms, source_key(part.name, "transforms")
        read[index], done = apply(read[index], own, seed=f"{seed}:{part.name}", where=where)
        held_out[index], _ = apply(held_out[index], own, seed=f"{seed}:{part.name}", held_out=True, where=where)
        reports += [report | {"source": part.name} for report in done]
    for report in reports:
        run.tell(f"{report['source']}: transform {told(report)}")
    if beginnings:
        run.tell(f"a stream: its first {sum(map(len, read)):,} rows are audited; the rest is read while training")
        return Rows.joined(read), Rows.joined([*held_out, apart]), {"transforms": reports, "streaming": {"sampled": sum(map(len, read))}}
    counts = [len(rows) for rows in read]
    wanted = wanted_sizes(found, counts, data)
    if data.mix:
        picked = random.Random(f"{seed}:mix")
        read = [rows.take(drawn(len(rows), size, picked)) for rows, size in zip(read, wanted, strict=True)]
    mix = [{"name": p.name, "read": c, "drawn": w, "held_out": len(h)} for p, c, w, h in zip(found, counts, wanted, held_out, strict=True)]
    for part, count, size in zip(found, counts, wanted, strict=True) if data.mix else ():
        again = f" ({size / count:.1f} times)" if size > count else ""
        run.tell(f"{part.name}: {size:,} rows of {count:,}{again}, {size / sum(wanted):.1%} of the mix")
    return Rows.joined(read), Rows.joined([*held_out, apart]), {"transforms": reports, **({"mix": mix} if data.mix else {})}


def _read_part(run: Run, part: Part) -> Rows:
    """All rows of a source. Raises TuneError (code 2) when there is none."""
    data = part.data
    if data.id:
        run.tell(f"asking the Hub for the dataset {data.id}")
        return hub_rows(data, data.split, key=source_key(part.name, "split"))[: data.limit]
    rows = read_rows(part.files, data, limit=data.limit)
    tell_skipped(run, rows.skipped)
    return rows


def _of_files(data: Data) -> Data:
    """Held-out files beside training rows from a database: their format is not the database's."""
    return dataclasses.replace(data, format=Format.auto) if data.format is Format.sql else data


def tell_skipped(run: Run, skipped: Sequence[Problem]) -> None:
    """What `data.on_error: skip` left out: counted, and the first few listed."""
    if not skipped:
        return
    run.tell(f"{left_out(len(skipped))} (data.on_error=skip):")
    for problem in skipped[:MOST_SHOWN]:
        run.tell(f"  {problem.where}: {problem.what}")
    if len(skipped) > MOST_SHOWN:
        run.tell(f"  … and {len(skipped) - MOST_SHOWN:,} more: skipped.json of the prepared data has them all")


def left_out(count: int) -> str:
    """`1 row could not be read and is left out`."""
    return "1 row could not be read and is left out" if count == 1 else f"{count:,} rows could not be read and are left out"
