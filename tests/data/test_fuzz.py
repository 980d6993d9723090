"""No input breaks a reader: random and damaged bytes give rows, Problems or one TuneError; what is written comes back as it was."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.test_formats import BYTES, COMPRESS, ROWS, archive, columnar
from tuner.data.formats import READERS, read_file
from tuner.errors import Problem, TuneError
from tuner.schema.data import Data, Format, SampleBy

FORMS = sorted(READERS)
WHOLE = BYTES | {
    "webdataset": archive({"a.txt": b"x", "a.json": b"{}", "b.cls": b"3"}),
    "conll": b"-DOCSTART- O\n\nEU\tB-ORG\nis\tO\n\nGerman\tB-MISC\n",
    "text": "größer\n\nsmaller\n".encode(),
    "stream": columnar("stream", ROWS),
}
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def reads_or_says_why(path: Path, content: bytes, **data: Any) -> None:
    path.write_bytes(content)
    try:
        found = list(read_file(str(path), Data(**data)))
    except TuneError:
        return
    for number, row in found:
        assert number >= 1
        assert isinstance(row, dict) or (isinstance(row, Problem) and row.what and row.where.startswith(str(path)))
    numbers = [number for number, _ in found]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize("form", FORMS)
@given(content=st.binary(max_size=300), by=st.sampled_from(SampleBy), names=st.sampled_from([[], ["a"], ["a", "b"]]))
@fuzz
def test_random_bytes_under_every_format(tmp_path: Path, form: Format, content: bytes, by: SampleBy, names: list[str]) -> None:
    reads_or_says_why(tmp_path / "a", content, format=form, sample_by=by, names=names)


@pytest.mark.parametrize("name", ["a", "a.json", "a.jsonl", "a.csv", "a.tsv", "a.txt", "a.tar", "a.xml", "a.csv.gz"])
@given(content=st.one_of(st.binary(max_size=300), st.text('{}[]",\t\n\r:O B-<>/&;\0é', max_size=80).map(str.encode)))
@fuzz
def test_random_bytes_under_every_name(tmp_path: Path, name: str, content: bytes) -> None:
    reads_or_says_why(tmp_path / name, content)
    reads_or_says_why(tmp_path / name, gzip.compress(content))


@pytest.mark.parametrize("kind", sorted(WHOLE))
@given(seed=st.integers(0, 2**32), ending=st.sampled_from(["", *COMPRESS]), first=st.booleans())
@fuzz
def test_damaged_files(tmp_path: Path, kind: str, seed: int, ending: str, first: bool) -> None:
    chance = random.Random(seed)
    compress = COMPRESS.get(ending, bytes)
    content = damaged(compress(WHOLE[kind]), chance) if first else compress(damaged(WHOLE[kind], chance))
    form = Format.arrow if kind == "stream" else Format(kind)
    reads_or_says_why(tmp_path / "a", content, format=chance.choice([Format.auto, form]))


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bytes changed, cut out, put in or written twice."""
    found = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 10])):
        at = chance.randrange(len(found) + 1)
        change = chance.randrange(4)
        if change == 0:
            found[at : at + 1] = chance.randbytes(1)
        elif change == 1:
            del found[at : at + chance.randrange(1, 60)]
        elif change == 2:
            found[at:at] = chance.randbytes(chance.randrange(1, 9))
        else:
            found[at:at] = found[chance.randrange(len(found) + 1) :][:40]
    return bytes(found)


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=5)


@given(rows=st.lists(st.dictionaries(TEXT, JSON, max_size=4), max_size=6), ascii_only=st.booleans(), indent=st.sampled_from([None, 1]))
@fuzz
def test_json_comes_back_as_it_was(tmp_path: Path, rows: list[dict[str, Any]], ascii_only: bool, indent: int | None) -> None:
    lines = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode())
    (tmp_path / "a.json").write_bytes(json.dumps(rows, ensure_ascii=ascii_only, indent=indent).encode())
    assert [row for _, row in read_file(str(tmp_path / "a.jsonl"), Data())] == rows
    assert [row for _, row in read_file(str(tmp_path / "a.json"), Data())] == rows


@pytest.mark.parametrize(("form", "mark"), [("csv", ","), ("tsv", "\t")])
@given(cells=st.lists(st.lists(TEXT, min_size=2, max_size=2), min_size=1, max_size=6), end=st.sampled_from(["\n", "\r\n"]))
@fuzz
def test_quoted_tables_come_back_as_they_were(tmp_path: Path, form: str, mark: str, cells: list[list[str]], end: str) -> None:
    target = io.StringIO()
    writer = csv.writer(target, delimiter=mark, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([["name", "value"], *cells])
    (tmp_path / f"a.{form}").write_bytes(target.getvalue().encode())
    rows = [row for _, row in read_file(str(tmp_path / f"a.{form}"), Data(format=Format(form)))]
    assert rows == [{"name": a, "value": b} for a, b in cells]


WORD = st.text(st.characters(exclude_categories=["Z", "C"]), min_size=1, max_size=8).filter(lambda word: word != "-DOCSTART-")
SENTENCE = st.lists(st.tuples(WORD, st.sampled_from(["O", "B-X", "I-X"])), min_size=1, max_size=6)
BLANKS = ["\n", "\n\n", " \n"]


@given(sentences=st.lists(SENTENCE, min_size=1, max_size=5), mark=st.sampled_from(["\t", " "]), blank=st.sampled_from(BLANKS))
@fuzz
def test_sentences_come_back_as_they_were(tmp_path: Path, sentences: list[list[tuple[str, str]]], mark: str, blank: str) -> None:
    text = blank.join("".join(f"{word}{mark}{tag}\n" for word, tag in sentence) for sentence in sentences)
    (tmp_path / "a.conll").write_bytes(text.encode())
    rows = [row for _, row in read_file(str(tmp_path / "a.conll"), Data())]
    assert rows == [{"tokens": [w for w, _ in s], "tags": [t for _, t in s]} for s in sentences]
