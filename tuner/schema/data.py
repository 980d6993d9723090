"""The `data:` section: rows to learn from and rows held out. `data: {path: train.jsonl, eval_path: eval.jsonl}`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from tuner.schema.base import Section, opt


class Format(StrEnum):
    """File formats."""

    auto = "auto"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"
    tsv = "tsv"
    parquet = "parquet"
    arrow = "arrow"
    text = "text"
    conll = "conll"
    xml = "xml"
    webdataset = "webdataset"
    images = "images"
    audio = "audio"
    sql = "sql"


class SampleBy(StrEnum):
    """What of a text file is one row."""

    line = "line"
    paragraph = "paragraph"
    document = "document"


class Overlong(StrEnum):
    """What becomes of a training row that is longer than `task.max_length`."""

    truncate = "truncate"
    split = "split"  # type: ignore[assignment]  # str has a method of that name, which nobody calls on a choice
    drop = "drop"


class OnError(StrEnum):
    """What a row that cannot be read does."""

    stop = "stop"
    skip = "skip"


class RowShape(StrEnum):
    """Row layouts."""

    auto = "auto"
    translation = "translation"
    source_target = "source_target"
    summary = "summary"
    messages = "messages"
    sharegpt = "sharegpt"
    alpaca = "alpaca"
    prompt_completion = "prompt_completion"
    question_answer = "question_answer"
    prompt = "prompt"
    preference = "preference"
    unpaired_preference = "unpaired_preference"
    answers = "answers"
    passage = "passage"
    tags = "tags"
    pair = "pair"
    triplet = "triplet"
    label = "label"
    mask = "mask"
    objects = "objects"
    image = "image"
    audio = "audio"
    text = "text"


class Contamination(StrEnum):
    """What becomes of training rows that hold parts of held-out ones."""

    report = "report"
    drop = "drop"
    stop = "stop"


class Backend(StrEnum):
    """What turns text into token ids; the ids are the same."""

    auto = "auto"
    huggingface = "huggingface"
    fast = "fast"


@dataclass(kw_only=True)
class RowSource(Section):
    """Where rows are and how they are read. Local files are keyed by their content, Hub sets by id and revision."""

    path: str | None = opt(None, content="prepare")
    """Local file, glob or folder of training rows. Looked up from here, from the recipe's folder, then in the shipped sets."""
    id: str | None = opt(None, affects="prepare")
    """Hub dataset id (`org/name`), instead of `path`."""
    config: str | None = opt(None, affects="prepare")
    """Configuration name of the Hub dataset."""
    revision: str | None = opt(None, affects="prepare")
    """Branch, tag or commit of the Hub dataset."""
    split: str = opt("train", affects="prepare")
    """Split expression of the Hub dataset (`train[:1000]`)."""
    format: Format = opt(Format.auto, affects="prepare baseline")
    """File format; `auto` looks at the content and the file's ending."""
    names: list[str] = opt(factory=list, affects="prepare baseline")
    """Column names of a CSV, TSV or CoNLL file without a header line: `[sentence, label]`."""
    sample_by: SampleBy = opt(SampleBy.line, affects="prepare baseline")
    """What of a text file is one row."""
    record: str | None = opt(None, affects="prepare baseline")
    """XML: the element that is one row; default: the one that repeats below the root."""
    file_name: str | None = opt(None, affects="prepare baseline")
    """Images and audio: columns read from each file's name, as `{label}_{speaker}_{take}`; default: `label` is the file's folder."""
    url: str | None = opt(None, affects="prepare baseline")
    """SQL: SQLAlchemy URL of the database, without a password (`sqlite:///tickets.db`)."""
    url_env: str | None = opt(None, affects="prepare baseline")
    """SQL: name of the environment variable that holds the URL, where it has a password."""
    query: str | None = opt(None, affects="prepare baseline")
    """SQL: the query whose result are the rows."""
    shape: RowShape = opt(RowShape.auto, affects="prepare baseline")
    """How a row is laid out; `auto` recognises it by its columns."""
    columns: dict[str, str] = opt(factory=dict, affects="prepare baseline")
    """Your columns under our names, or a text made of them: `{prompt: "{title}\\n{body}", completion: answer}`."""
    system: str | None = opt(None, affects="prepare baseline")
    """System message for rows that have none."""
    limit: int | None = opt(None, affects="prepare", ge=1)
    """Use the first so many training rows."""


FOR_ALL = ("system", "limit")  # what may stand beside a mix, for the sources that do not say it


@dataclass(kw_only=True)
class MixSource(RowSource):
    """One source of a mix."""

    weight: float | None = opt(None, gt=0)
    """Its share of the mix against the other weights; 1 where only others say theirs."""
    rows: int | None = opt(None, ge=1)
    """So many of its rows, chosen by the seed, instead of a weight; more than it has: rows are used again."""
    transforms: list[Any] = opt(factory=list)
    """Steps for its rows alone, before those of `data.transforms`."""


@dataclass(kw_only=True)
class Data(RowSource):
    """Rows to learn from and rows held out."""

    mix: dict[str, MixSource] = opt(factory=dict, content="prepare baseline")
    """Several sources by names of yours, instead of one: `{chat: {path: chat.jsonl, weight: 3}, code: {id: org/code, weight: 1}}`.
    `system` and `limit` beside `mix` hold for sources that say none. Without weights or numbers of rows, all rows of all are used."""
    mix_rows: int | None = opt(None, affects="prepare", ge=1)
    """Rows of the mix; default: as many as the weights allow without using a row twice."""
    mix_temperature: float | None = opt(None, affects="prepare", gt=0)
    """Draw a source by the number of its rows to the power of 1/temperature (times its weight): 1 as they are, 100 nearly alike."""
    streaming: bool = opt(False, affects="prepare")
    """Read, transform and tokenize while training, for sets larger than memory or disk: nothing is kept but the block at hand. Needs
    `trainer.max_steps`. Only the first rows are audited beforehand."""
    shuffle_rows: int = opt(10_000, content="prepare", ge=1)
    """Streaming: rows of a file that are shuffled together; files, or parts of 32 MB of a file, are shuffled as wholes."""
    on_error: OnError = opt(OnError.stop, affects="prepare baseline")
    """A row that cannot be read stops the run, or is skipped, counted and listed."""
    overlong: Overlong = opt(Overlong.truncate, affects="prepare")
    """Training rows beyond `task.max_length`: cut at the end, split into rows of that length (the last has the end of turn), or dropped."""
    tokenizer: Backend = opt(Backend.auto)
    """`fast`: fastokens (`pip install "tuner[fast]"`), after it wrote the same ids for a sample of the rows. `auto`: that where it is there
    and the rows are many enough, else `huggingface`."""
    transforms: list[Any] = opt(factory=list, content="prepare baseline")
    """Steps that clean and choose rows, in order: `[strip_html, {filter: "len(text) > 20"}, {drop_near_duplicates: {threshold: 0.8}}]`;
    `tune ls transforms` has them all. Held-out rows get the steps that shape rows, and none that drops."""
    contamination: Contamination = opt(Contamination.report, content="prepare")
    """Training rows that repeat half of a held-out one, or more: counted and told, dropped, or a gate (exit code 3)."""
    eval_path: str | None = opt(None, content="baseline")
    """Local file, glob or folder of held-out rows."""
    eval_split: str | None = opt(None, content="baseline")
    """Split expression of the Hub dataset for held-out rows (`test`)."""
    eval_fraction: float = opt(0.1, content="prepare baseline", ge=0, lt=1)
    """Hold out this share of the training rows (seeded), when there is no eval file or split; 0: hold out none."""
    eval_rows: int | None = opt(None, content="prepare baseline", ge=1)
    """Hold out so many of the training rows (seeded; of a stream the first ones) instead of a share; of a mix, of each source its part."""
    eval_group: str | None = opt(None, content="prepare baseline")
    """Column whose rows of one value stay together when a share is held out (by a hash of it): no customer is on both sides."""
    eval_stratify: str | None = opt(None, content="prepare baseline")
    """Column of which every value gives its share to the held-out rows."""


def sources(data: Data) -> dict[str, Data]:
    """Each source as a section of its own, with the `transforms` that it alone gets: {"": …} for one, by name for a mix."""
    if not data.mix:
        return {"": dataclasses.replace(data, transforms=[])}
    found = {}
    for name, source in data.mix.items():
        own = {spec.name: getattr(source, spec.name) for spec in dataclasses.fields(RowSource)}
        own |= {key: getattr(data, key) for key in FOR_ALL if own[key] is None}
        found[name] = dataclasses.replace(data, **own, mix={}, transforms=source.transforms)
    return found


def source_key(name: str, field: str) -> str:
    """The recipe key of a source's field: `data.path`, `data.mix.chat.path`."""
    return f"data.mix.{name}.{field}" if name else f"data.{field}"
