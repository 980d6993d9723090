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
from tuner.data.load import Rows
from tuner.data.mix import Part, parts, shares
from tuner.data.stream import Feed, Journal, schedule, settled
from tuner.errors import TuneError
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
        run.tell(f"{len(skipped):,} rows of the stream could not be read and were left out (data.on_error=skip); the first: {skipped[0]}")
    sources = [{"name": part.name, "samples": turns[number]} for number, part in enumerate(found)]
    return {"samples": samples, "sources": sources, "skipped": {"rows": len(skipped), "first": skipped[:10]}}


def _heads(run: Run) -> list[Head]:
    found, data = parts(run), run.recipe.data
    wanted = data.eval_rows if data.eval_rows and not (data.eval_path or data.eval_split) else 0
    return [_head(p, share, wanted) for p, share in zip(found, shares(found, [1] * len(found), None), strict=True)]


def _head(part: Part, share: float, wanted: int) -> Head:
    pieces = hub_stream(part.data, key=source_key(part.name, "split")) if part.data.id else shards(part.files, part.data)
    numbered = _numbered(pieces, part.data)
    apart, held_out = Rows(), dict[int, int]()
    left = round(wanted * share)
    for index, (number, row) in numbered if left else ():
        held_out[index] = held_out.get(index, 0) + 1
        apart.extend(pieces[index].name, pieces[index].form, [(number, row)], stop=True, limit=None)
        left -= 1
        if not left:
            break
    sample = Rows()
    for index, (number, row) in numbered:
        sample.extend(pieces[index].name, pieces[index].form, [(number, row)], stop=True, limit=None)
        if len(sample) >= SAMPLE_ROWS * share:
            break
    if not sample:
        where = f"`{part.name}`" if part.name else "the stream"
        raise TuneError(f"{where} has no rows beyond the {len(apart)} that are held out", pieces[0].name, "lower `data.eval_rows`")
    return Head(part=part, shards=pieces, share=share, apart=apart, sample=sample, held_out=held_out)


def _numbered(pieces: Sequence[AnyShard], data: Data) -> Iterator[tuple[int, Found]]:
    """(index of the part, row) of every row that can be read. Raises TuneError for one that cannot, unless it is to be skipped."""
    for index, shard in enumerate(pieces):
        for number, row in shard.rows(data):
            if isinstance(row, dict):
                yield index, (number, row)
            elif data.on_error is OnError.stop:
                raise settled(TuneError(problems=[row]), shard)
