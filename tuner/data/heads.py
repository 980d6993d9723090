"""The beginning of a stream: `heads(run)` -> of each source its parts, the rows held out, and the sample that is audited and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tuner.context import Run
from tuner.data.formats import Found
from tuner.data.formats.shards import AnyShard, shards
from tuner.data.hub import hub_stream
from tuner.data.journal import Journal
from tuner.data.load import Rows
from tuner.data.mix import Part, parts
from tuner.data.stream import Feed, schedule, settled
from tuner.errors import Problem, TuneError
from tuner.proportions import apportioned, shares
from tuner.schema.data import Data, OnError, source_key

SAMPLE_ROWS = 2000
JOURNAL = "stream.jsonl"


@dataclass(frozen=True, kw_only=True)
class Head:
    """The beginning of one source: its parts, its share of the mix, its first rows, of which `held_out` says how many each part gives."""

    part: Part
    shards: Sequence[AnyShard]
    share: float
    apart: Rows
    sample: Rows
    held_out: dict[int, int]

    def feed(self, number: int) -> Feed:
        """The source as a stream, without the rows that are held out."""
        return Feed(part=number, data=self.part.data, shards=self.shards, held_out=self.held_out, share=self.share)


def heads(run: Run) -> list[Head]:
    """The beginning of each source, read once in this process. Raises TuneError (code 2) when a source has too few rows."""
    found: list[Head] = run.keep("heads", lambda: _heads(run))
    return found


def streamed(run: Run, samples: int) -> dict[str, Any]:
    """What a training took from the stream, for data.json: samples of each source, and the rows that were left out, which are told too."""
    found = parts(run)
    turns = Counter(islice(schedule(shares(found, [1] * len(found), None)), samples))
    skipped = Journal(run.folder / JOURNAL).read().skipped
    if skipped:
        count = "1 row of the stream" if len(skipped) == 1 else f"{len(skipped):,} rows of the stream"
        run.tell(f"not read and left out (data.on_error=skip): {count}; the first: {skipped[0]}")
    sources = [{"name": part.name, "samples": turns[number]} for number, part in enumerate(found)]
    return {"samples": samples, "sources": sources, "skipped": {"rows": len(skipped), "first": skipped[:10]}}


def _heads(run: Run) -> list[Head]:
    found, data = parts(run), run.recipe.data
    wanted = data.eval_rows if data.eval_rows and not (data.eval_path or data.eval_split) else 0
    parted = shares(found, [1] * len(found), None)
    return [_head(*each) for each in zip(found, parted, apportioned(parted, wanted), strict=True)]


def _head(part: Part, share: float, left: int) -> Head:
    pieces = hub_stream(part.data, key=source_key(part.name, "split")) if part.data.id else shards(part.files, part.data)
    apart, sample, held_out = Rows(), Rows(), dict[int, int]()
    for index, (number, row) in _numbered(pieces, part.data):
        rows = apart if left else sample
        if isinstance(row, Problem):
            rows.skipped.append(row)
            continue
        rows.append(row, (pieces[index].name, number, pieces[index].form))
        if left:
            left -= 1
            held_out[index] = held_out.get(index, 0) + 1
        elif len(sample) >= SAMPLE_ROWS * share:
            break
    if not sample:
        where = part.name or "the stream"
        skipped = [*apart.skipped, *sample.skipped]
        if skipped:
            raise TuneError(
                f"{where}: no row is left to train; {len(skipped)} were skipped, the first: {skipped[0].what}", skipped[0].where
            )
        fix = "lower `data.eval_rows`" if len(apart) else "put at least one row into it"
        raise TuneError(f"{where} has no rows" + (f" beyond the {len(apart)} that are held out" if len(apart) else ""), pieces[0].name, fix)
    return Head(part=part, shards=pieces, share=share, apart=apart, sample=sample, held_out=held_out)


def _numbered(pieces: Sequence[AnyShard], data: Data) -> Iterator[tuple[int, Found]]:
    """(index of the part, (number, row or Problem)). Raises TuneError for a row that cannot be read, unless it is to be skipped."""
    for index, shard in enumerate(pieces):
        for number, row in shard.rows(data):
            if isinstance(row, Problem):
                if data.on_error is OnError.stop:
                    raise settled(TuneError(problems=[row]), shard)
                row = settled(TuneError(problems=[row]), shard).problems[0]
            yield index, (number, row)
