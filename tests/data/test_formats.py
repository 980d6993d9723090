"""Every file format: what it reads, how it is told from the others, and what broken input gets (`train.csv:7`, never a traceback)."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import feather, ipc, parquet

from tuner.data.formats import detect, place, read_file
from tuner.data.layout import read_all
from tuner.data.load import Rows, read_rows
from tuner.errors import Problem, TuneError
from tuner.files import find_files
from tuner.schema.data import Data, Format, OnError, SampleBy

ROWS = [{"text": "größer", "label": "1"}, {"text": "smaller", "label": "0"}]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: bytes(pyarrow.compress(content, codec="zstd", asbytes=True)),
}


def write(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def rows(path: str, **data: Any) -> list[dict[str, Any]]:
    return list(read_rows([path], Data(**data)))


def found(path: str, **data: Any) -> list[tuple[int, Any]]:
    return list(read_file(path, Data(**data)))


def problems(path: str, **data: Any) -> list[Problem]:
    return [row for _, row in found(path, **data) if isinstance(row, Problem)]


def columnar(kind: str, values: list[dict[str, Any]]) -> bytes:
    table, target = pyarrow.Table.from_pylist(values), io.BytesIO()
    if kind == "parquet":
        parquet.write_table(table, target)
    elif kind == "feather":
        feather.write_feather(table, target)
    else:
        with (ipc.new_file if kind == "file" else ipc.new_stream)(target, table.schema) as writer:
            writer.write_table(table)
    return target.getvalue()


def archive(members: dict[str, bytes], **changes: Any) -> bytes:
    """A tar; `changes` are made to the headers of its first member."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for key, value in changes.items():
                setattr(member, key, value)
            changes = {}
            tar.addfile(member, io.BytesIO(content))
    return target.getvalue()


TEXTS = {
    "jsonl": "".join(json.dumps(r) + "\n" for r in ROWS),
    "json": json.dumps(ROWS),
    "csv": "text,label\ngrößer,1\nsmaller,0\n",
    "tsv": "text\tlabel\ngrößer\t1\nsmaller\t0\n",
    "xml": '<rows><row label="1"><text>größer</text></row><row label="0"><text>smaller</text></row></rows>',
}
BYTES = {kind: text.encode() for kind, text in TEXTS.items()} | {
    "parquet": columnar("parquet", ROWS),
    "arrow": columnar("file", ROWS),
}


# What a file is.


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("ending", ["", *COMPRESS])
def test_every_format_reads_the_same_rows_compressed_or_not(tmp_path: Path, kind: str, ending: str) -> None:
    content = COMPRESS[ending](BYTES[kind]) if ending else BYTES[kind]
    path = write(tmp_path / f"train.{kind}{ending}", content)
    assert rows(path) == ROWS
    assert detect(path, Data()) is Format(kind)


@pytest.mark.parametrize("kind", BYTES)
def test_a_file_whose_ending_says_nothing_is_recognised(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "part-00000", BYTES[kind])
    assert detect(path, Data()) is Format(kind)
    assert rows(path) == ROWS


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet", "a.arrow", "a.txt"])
def test_parquet_and_arrow_are_known_by_their_marks(tmp_path: Path, kind: str, name: str) -> None:
    assert rows(write(tmp_path / name, BYTES[kind])) == ROWS


@pytest.mark.parametrize("kind", ["file", "stream", "feather"])
def test_arrow_files_streams_and_feather(tmp_path: Path, kind: str) -> None:
    assert rows(write(tmp_path / "a.arrow", columnar(kind, ROWS))) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "form"),
    [
        ("a.json", TEXTS["jsonl"], "jsonl"),
        ("a.json", '{"text": "one row"}', "json"),
        ("a.json", json.dumps({"data": ROWS}), "json"),
        ("a.json", '{"data": [\n{"text": "a"},\n{"text": "b"}]}', "json"),
        ("a.jsonl", TEXTS["json"], "json"),
        ("a.jsonl", json.dumps(ROWS, indent=2), "json"),
        ("a.jsonl", json.dumps({"data": ROWS}, indent=2), "json"),
        ("a.jsonl", '{"data": []}', "jsonl"),
        ("a.txt", TEXTS["jsonl"], "jsonl"),
        ("a.txt", "[1] is a footnote\n", "text"),
        ("a.csv", TEXTS["tsv"], "tsv"),
        ("a.csv", 'a\tb\n"x\ny"\t2\n', "tsv"),
        ("a.csv", "text\nno separator\n", "csv"),
        ("a.csv", "a,b\tc\n1,2\n", "csv"),
        ("a.tsv", "EU\tB-ORG\nrejects\tO\n\nGerman\tB-MISC\n", "conll"),
        ("a.tsv", "-DOCSTART-\t-X-\tO\n\nEU\tNNP\tB-ORG\nis\tVB\tO\n\n", "conll"),
        ("a.txt", "EU B-ORG\nrejects O\n", "conll"),
        ("a.txt", "Exhibit B-1\nExhibit B-2\n", "text"),
        ("a.tsv", "move\tplayer\nO\tX\nX\tO\n", "tsv"),
        ("a.tsv", "good\t1\nbad\t0\n", "tsv"),
        ("a.iob", "EU B-ORG\n", "conll"),
        ("a.conll", "EU NNP I-NP\n", "conll"),
        ("a.txt", "Once upon a time.\n", "text"),
        ("notes", "EU\tB-ORG\nrejects\tO\n\nGerman\tB-MISC\n", "conll"),
    ],
)
def test_the_content_tells_the_format(tmp_path: Path, name: str, content: str, form: str) -> None:
    assert detect(write(tmp_path / name, content), Data()) is Format(form)


def test_what_the_recipe_says_counts_first(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", "a,b\n"), format=Format.text) == [{"text": "a,b"}]
    assert rows(write(tmp_path / "a.txt", "x,1\n"), names=["text", "label"]) == [{"text": "x", "label": "1"}]
    assert rows(write(tmp_path / "b.txt", "x\t1\n"), names=["text", "label"]) == [{"text": "x", "label": "1"}]
    assert rows(write(tmp_path / "a.json", TEXTS["jsonl"]), format=Format.json) == ROWS, "JSON lines are JSON too"


@pytest.mark.parametrize(
    ("content", "fix"),
    [
        (b"It was a dark night, they say,\nand so on.", "set `data.format` to one of json, jsonl, csv"),
        (b"", "set `data.format` to one of"),
        (b"\x00\x01\x02\x03" * 50, "set `data.format` to one of"),
        (b"SQLite format 3\0" + b"\0" * 100, "data.url=sqlite:///"),
        (b"PK\3\4" + b"\0" * 100, "export the sheet as CSV"),
    ],
)
def test_a_format_that_cannot_be_told_is_asked_for(tmp_path: Path, content: bytes, fix: str) -> None:
    with pytest.raises(TuneError, match=r"cannot tell the format of data\.xyz") as caught:
        rows(write(tmp_path / "data.xyz", content))
    assert caught.value.code == 2
    assert fix in caught.value.problems[0].fix


# CSV and TSV.


def test_a_csv_without_a_header_takes_its_names_from_the_recipe(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "größer,1\nsmaller,0\n")
    assert rows(path, names=["text", "label"]) == ROWS
    assert rows(write(tmp_path / "b.csv", TEXTS["csv"]), names=["text", "label"]) == ROWS, "a header that says the same is no row"
    (problem,) = problems(write(tmp_path / "c.csv", "a,b,c\n"), names=["text", "label"])
    assert problem.what == "more values than the 2 columns of `data.names`"


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
@pytest.mark.parametrize("names", [[], ["text", "text"]])
def test_two_columns_of_one_name_would_lose_one(tmp_path: Path, name: str, names: list[str]) -> None:
    mark = "," if name.endswith("csv") else "\t"
    with pytest.raises(TuneError, match="two columns are called 'text'"):
        rows(write(tmp_path / name, f"text{mark}text\na{mark}b\n"), names=names)


def test_ragged_rows_are_named_and_the_others_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\ngood,1\nbad\n"two\nlines",0\na,b,c\nlast,1\n')
    first, ragged, second, longer, last = found(path)
    assert (first, second, last) == (
        (1, {"text": "good", "label": "1"}),
        (3, {"text": "two\nlines", "label": "0"}),
        (5, {"text": "last", "label": "1"}),
    )
    assert (ragged[0], ragged[1].where, ragged[1].what) == (2, f"{path}:3", "fewer values than the 2 columns of the first line")
    assert (longer[0], longer[1].where) == (4, f"{path}:6"), "the quoted line break counts as a line"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('"a"b,1', "not quoted by the rules"),
        ('"never closes,1', "the quotation mark that opens here never closes"),
    ],
)
def test_bad_quoting_is_named_by_its_line(tmp_path: Path, line: str, what: str) -> None:
    path = write(tmp_path / "a.csv", f"text,label\ngood,1\n{line}\nlast,1\n")
    (problem,) = problems(path)
    assert (problem.where, what in problem.what) == (f"{path}:3", True)
    if "rules" in what:
        assert found(path)[-1] == (3, {"text": "last", "label": "1"})


def test_quotation_marks_inside_an_unquoted_value_are_text(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", 'text,label\na 5" disk,1\n')) == [{"text": 'a 5" disk', "label": "1"}]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        ('text\tlabel\n"two\nlines"\t1\n', ["two\nlines"]),  # RFC 4180
        ('text\tlabel\n"a ""b"" c"\t1\n', ['a "b" c']),
        ('text\tlabel\n"It\'s over," he said\t1\n', ['"It\'s over," he said']),  # unquoted: begins with a mark
        ('text\tlabel\n"open\t1\nclose"\t0\n', ['"open', 'close"']),  # read as quoting it would be one record over two lines
        ('"text"\t"label"\n"\t\n"\t"1"\n', ["\t\n"]),  # where all is quoted it is one record
        ('text\tlabel\n"open\t1\nplain\t0\n', ['"open', "plain"]),
        ('text\tlabel\nsay "x"\t1\n', ['say "x"']),
    ],
)
def test_a_tsv_is_quoted_by_the_rules_or_not_at_all(tmp_path: Path, content: str, texts: list[str]) -> None:
    assert [r["text"] for r in rows(write(tmp_path / "a.tsv", content))] == texts


def test_semicolons_are_what_some_spreadsheets_write(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", 'text;label\n"größer";1\nsmaller;0\n')) == ROWS
    assert rows(write(tmp_path / "b.csv", "a; b\nc\n"), names=["text"]) == [{"text": "a; b"}, {"text": "c"}]


# Text, CoNLL, XML.


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (SampleBy.line, [(1, "a"), (2, "b"), (4, "c")]),
        (SampleBy.paragraph, [(1, "a\nb"), (4, "c")]),
        (SampleBy.document, [(1, "a\nb\n\nc")]),
    ],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_by_line_paragraph_and_document(tmp_path: Path, by: SampleBy, expected: list[tuple[int, str]], end: str) -> None:
    path = write(tmp_path / "a.txt", "a\nb\n\nc\n\n  \n".replace("\n", end))
    assert found(path, sample_by=by) == [(line, {"text": text}) for line, text in expected]
    assert place(path, 4, Format.text) == f"{path}:4"


def test_conll_sentences_are_lists_by_column(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n\nGerman JJ I-NP B-MISC\n"
    path = write(tmp_path / "a.conll", text)
    assert found(path) == [
        (3, {"tokens": ["EU", "rejects"], "tags": ["B-ORG", "O"]}),
        (6, {"tokens": ["German"], "tags": ["B-MISC"]}),
    ]
    assert rows(path, names=["words", "pos", "chunks", "ner"])[1] == {
        "words": ["German"],
        "pos": ["JJ"],
        "chunks": ["I-NP"],
        "ner": ["B-MISC"],
    }


def test_a_broken_sentence_is_named_and_the_next_one_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.conll", "EU\tB-ORG\nrejects\n\nGerman\tB-MISC\n")
    (number, problem), last = found(path)
    assert (number, problem.where, problem.what) == (1, f"{path}:2", "1 columns, not 2: rejects")
    assert last == (4, {"tokens": ["German"], "tags": ["B-MISC"]})


def test_xml_records_are_attributes_and_children(tmp_path: Path) -> None:
    text = """<?xml version="1.0" encoding="ISO-8859-1"?>
    <set xmlns="urn:x"><title>T</title>
      <item id="7"><q>größer</q><tag>a</tag><tag>b</tag><who age="3"><name>N</name></who></item>
      <item id="8"><q>some <b>bold</b> words</q><none/></item>
      <item id="9">plain</item>
    </set>"""
    expected = [
        {"id": "7", "q": "größer", "tag": ["a", "b"], "who": {"age": "3", "name": "N"}},
        {"id": "8", "q": "some bold words", "none": ""},
        {"id": "9", "text": "plain"},
    ]
    path = write(tmp_path / "a.xml", text.encode("latin-1"))
    assert rows(path) == expected
    assert rows(path, record="who") == [{"age": "3", "name": "N"}]


def test_xml_without_a_plain_record_asks_for_it(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path / "a.xml", "<r><a/><a/><b/><b/></r>"))
    assert "a ×2, b ×2" in problem.what
    assert "data.record" in problem.fix


BOMB = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><r><i>&b;</i><i>x</i></r>'
OUTSIDE = '<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r><i>&a;</i><i>x</i></r>'


@pytest.mark.parametrize("text", [BOMB, OUTSIDE, '<!DOCTYPE r SYSTEM "x.dtd"><r><i/><i/></r>'])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
@pytest.mark.parametrize("record", [None, "i"])
def test_document_types_are_refused(tmp_path: Path, text: str, encoding: str, record: str | None) -> None:
    (problem,) = problems(write(tmp_path / "a.xml", text.encode(encoding)), record=record)
    assert "declares a document type" in problem.what


def test_xml_rows_before_a_break_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xml", "<r>\n" + "<i>x</i>\n" * 20_000 + "<i>y</r>")
    *good, (number, problem) = found(path, record="i")
    assert len(good) > 10_000
    assert number == len(good) + 1
    assert (problem.where, "mismatched tag" in problem.what) == (f"{path}:20002", True)


# Images, audio, archives.


def media(folder: Path, *names: str) -> list[str]:
    for name in names:
        write(folder / name, b"not looked at")
    return find_files(str(folder), places=[folder])


def test_images_are_labelled_by_their_folder(tmp_path: Path) -> None:
    files = media(tmp_path / "photos", "cats/1.jpg", "cats/more/2.PNG", "dogs/1.jpg", "LICENSE.txt", ".trash/3.jpg", "dogs/._1.jpg")
    assert list(read_rows(files, Data())) == [
        {"image": str(tmp_path / "photos/cats/1.jpg"), "label": "cats"},
        {"image": str(tmp_path / "photos/cats/more/2.PNG"), "label": "more"},
        {"image": str(tmp_path / "photos/dogs/1.jpg"), "label": "dogs"},
    ]
    assert read_rows(files, Data()).place(2) == str(tmp_path / "photos/dogs/1.jpg")


def test_audio_file_names_give_columns(tmp_path: Path) -> None:
    files = media(tmp_path, "0_theo_10.wav", "odd.wav", "seven_of_nine_1.wav")
    read = read_rows(files, Data(file_name="{label}_{speaker}_{take}", on_error=OnError.skip))
    assert read[0] == {"audio": str(tmp_path / "0_theo_10.wav"), "label": "0", "speaker": "theo", "take": "10"}
    assert [p.where for p in read.skipped] == [str(tmp_path / "odd.wav")]
    assert read[1]["take"] == "nine_1", "the last column takes the rest"


@pytest.mark.parametrize("pattern", ["plain", "{a}{b}", "{a}_{a}", "{}_{b}", "{a", "{a:02d}_{b}", "{a!r}"])
def test_a_file_name_pattern_that_cannot_be_read_back_is_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(TuneError) as caught:
        read_rows(media(tmp_path, "a_b.wav"), Data(file_name=pattern))
    assert caught.value.problems[0].where == "data.file_name"


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_metadata_beside_the_files_adds_columns(tmp_path: Path, kind: str) -> None:
    lines = [{"file_name": "1.jpg", "caption": "a cat"}, {"file_name": "more/2.jpg", "caption": "two"}]
    text = "".join(json.dumps(r) + "\n" for r in lines) if kind == "jsonl" else "file_name,caption\n1.jpg,a cat\nmore/2.jpg,two\n"
    write(tmp_path / f"metadata.{kind}", text)
    files = media(tmp_path, "1.jpg", "more/2.jpg")
    assert f"metadata.{kind}" in {Path(f).name for f in files}, "its content belongs to the data's key"
    assert list(read_rows(files, Data())) == [
        {"image": str(tmp_path / "1.jpg"), "caption": "a cat"},
        {"image": str(tmp_path / "more/2.jpg"), "caption": "two"},
    ]
    files = media(tmp_path, "3.jpg")
    with pytest.raises(TuneError, match="no metadata file has a row for it"):
        read_rows(files, Data())
    write(tmp_path / f"metadata.{kind}", text.replace("1.jpg", "gone.jpg"))
    with pytest.raises(TuneError, match="there is no such file"):
        read_rows(files, Data())


def test_webdataset_members_of_one_name_are_a_row(tmp_path: Path) -> None:
    members = {
        "./d/1.jpg": b"\xff\xd8",
        "./d/1.cls": b"3",
        "./d/1.txt": "größer".encode(),
        "./d/2.seg.png": b"\x89P",
        "./d/2.json": b'{"a": 1}',
    }
    for name, content in (("a.tar", archive(members)), ("b.tar.gz", gzip.compress(archive(members))), ("c", archive(members))):
        assert rows(write(tmp_path / name, content)) == [
            {"__key__": "d/1", "jpg": b"\xff\xd8", "cls": 3, "txt": "größer"},
            {"__key__": "d/2", "seg.png": b"\x89P", "json": {"a": 1}},
        ]


@pytest.mark.parametrize(
    ("members", "changes", "what"),
    [
        ({"../evil.txt": b"x"}, {}, "leads out of the archive"),
        ({"/etc/evil.txt": b"x"}, {}, "leads out of the archive"),
        ({"a/../../evil.txt": b"x"}, {}, "leads out of the archive"),
        ({"evil.txt": b""}, {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, "is no plain file"),
        ({"evil.txt": b""}, {"type": tarfile.FIFOTYPE}, "is no plain file"),
        ({"evil.cls": b"three"}, {}, "cannot be decoded"),
        ({"evil.txt": b"\xff\xfe"}, {}, "cannot be decoded"),
    ],
)
def test_members_that_are_not_safe_or_not_readable_are_named(tmp_path: Path, members: dict[str, bytes], changes: Any, what: str) -> None:
    content = archive(members | {"good.txt": b"y"}, **changes)
    (number, problem), last = found(write(tmp_path / "a.tar", content))
    assert (number, what in problem.what, "evil" in problem.what) == (1, True, True)
    assert last == (2, {"__key__": "good", "txt": "y"})


# Bad input.


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt", "a.conll"])
@pytest.mark.parametrize(("bad", "what"), [(b"\xe4\xff", "not UTF-8 text"), (b"\0", "a NUL byte")])
def test_bytes_that_are_no_text_are_named_and_the_next_row_read(tmp_path: Path, name: str, bad: bytes, what: str) -> None:
    line = {"a.jsonl": b'{"a": "%s"}\n', "a.csv": b"%s,1\n", "a.tsv": b"%s\t1\n", "a.txt": b"%s\n", "a.conll": b"%s\tO\n\n"}[name]
    path = write(tmp_path / name, line % b"1" + line % bad + line % b"3")
    found_rows = found(path, names=["a", "b"] if name in ("a.csv", "a.tsv") else [])
    assert [isinstance(row, Problem) for _, row in found_rows] == [False, True, False]
    problem = found_rows[1][1]
    assert (problem.where, what in problem.what) == (f"{path}:{3 if 'conll' in name else 2}", True)
    assert "UTF-8" in problem.fix


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_byte_order_marks_and_line_ends(tmp_path: Path, encoding: str, kind: str, end: str) -> None:
    assert rows(write(tmp_path / f"a.{kind}", TEXTS[kind].replace("\n", end).encode(encoding))) == ROWS


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv"])
def test_utf16_without_its_mark_is_told(tmp_path: Path, kind: str) -> None:
    content = TEXTS[kind].replace("ö", "o").encode("utf-16-le")
    assert all("NUL" in p.what or "JSON" in p.what for p in problems(write(tmp_path / f"a.{kind}", content)))
    assert problems(str(tmp_path / f"a.{kind}"))


def test_a_line_of_fifty_megabytes(tmp_path: Path) -> None:
    text = "x" * 50_000_000
    assert len(rows(write(tmp_path / "a.jsonl", f'{{"a": "{text}"}}\n{{"a": "b"}}\n'))[0]["a"]) == len(text)
    assert len(rows(write(tmp_path / "a.csv", f"a,b\n{text},1\n"))[0]["a"]) == len(text)
    (problem,) = problems(write(tmp_path / "b.jsonl", f'{{"a": "{text}" "b"}}\n'))
    assert len(problem.what) < 300
    assert '" "b"}' in problem.what, "the part around the fault is shown"


@pytest.mark.parametrize("kind", BYTES)
@pytest.mark.parametrize("ending", ["", *COMPRESS])
def test_a_file_that_is_cut_off_keeps_its_rows_and_ends_in_a_problem(tmp_path: Path, kind: str, ending: str) -> None:
    content = {"parquet": columnar("parquet", ROWS * 5000), "arrow": columnar("file", ROWS * 5000)}.get(kind) or BYTES[kind]
    content = COMPRESS[ending](content)[:-7] if ending else content[:-7]
    *good, (_, last) = found(write(tmp_path / f"a.{kind}{ending}", content))
    assert all(isinstance(row, dict) for _, row in good)
    assert isinstance(last, Problem)
    assert last.where.startswith(str(tmp_path / f"a.{kind}{ending}"))


MANY = [{"text": f"text {i} {i * 7919 % 10007:05}", "label": str(i)} for i in range(500)]
LONG = {
    "jsonl": "".join(json.dumps(r) + "\n" for r in MANY),
    "json": json.dumps(MANY),
    "csv": "text,label\n" + "".join(f"{r['text']},{r['label']}\n" for r in MANY),
    "tsv": "text\tlabel\n" + "".join(f"{r['text']}\t{r['label']}\n" for r in MANY),
    "xml": "<rows>" + "".join(f'<row label="{r["label"]}"><text>{r["text"]}</text></row>' for r in MANY) + "</rows>",
}


@pytest.mark.parametrize("kind", LONG)
@pytest.mark.parametrize("ending", [".gz", ".xz"])
def test_rows_before_a_break_are_kept_where_it_is_skipped_and_the_break_has_its_place(tmp_path: Path, kind: str, ending: str) -> None:
    content = COMPRESS[ending](LONG[kind].encode())
    path = write(tmp_path / f"a.{kind}{ending}", content[: len(content) // 2])
    kept = read_rows([path], Data(on_error=OnError.skip))
    assert 150 < len(kept) < 350, "what the half of the file holds, where a buffer's worth was lost"
    assert list(kept) == MANY[: len(kept)]
    (broken,) = kept.skipped
    place = f"{path}:{len(kept) + 1}" if kind == "jsonl" else f"{path}, row {len(kept) + 1}"
    assert (broken.where, broken.what[:29]) == (place, "all from here on is unread: C")
    with pytest.raises(TuneError, match="unread") as caught:
        read_rows([path], Data())
    assert caught.value.problems[0].where == place, "the last row that was read, and one"


@pytest.mark.parametrize("kind", LONG)
def test_a_break_before_the_first_row_is_told_as_one(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TuneError, match="all from here on is unread"):
        read_rows([write(tmp_path / f"a.{kind}.bz2", bz2.compress(LONG[kind].encode())[:-50])], Data())


def test_damaged_arrow_offsets_are_told_and_not_followed(tmp_path: Path) -> None:
    content = bytearray(columnar("stream", [{"a": f"text {i}"} for i in range(1000)]))
    at = content.index((6).to_bytes(4, "little") + (12).to_bytes(4, "little"))
    content[at + 4 : at + 8] = (1 << 30).to_bytes(4, "little")
    (problem,) = problems(write(tmp_path / "a.arrow", bytes(content)))
    assert "cannot be read as Arrow" in problem.what


def test_json_that_python_cannot_hold_is_told(tmp_path: Path) -> None:
    deep, digits = "[" * 100_000 + "]" * 100_000, "1" * 5000
    path = write(tmp_path / "a.jsonl", f'{{"a": {deep}}}\n{{"a": {digits}}}\n{{"a": "\\ud83d"}}\n{{"a": "\\ud83d\\ude00"}}\n')
    *bad, last = found(path)
    assert [p.where for _, p in bad] == [f"{path}:{n}" for n in (1, 2, 3)]
    assert last == (4, {"a": "😀"})


def test_a_broken_array_gives_the_rows_before(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", '[{"a": 1},\n {"a": 2},\n {"a": 3\n {"a": 4}]')
    assert found(path)[:2] == [(1, {"a": 1}), (2, {"a": 2})]
    (problem,) = problems(path)
    assert problem.where == f"{path}:4"
    for tail in ("[1] x", '[{"a": 1},]', '[{"a": 1}', '[{"a": 1} {"a": 2}]', "[,]"):
        assert problems(write(tmp_path / "b.json", tail)), tail


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_that_change_between_files_are_named_with_file_and_row(tmp_path: Path, kind: str) -> None:
    sets = [[{"prompt": "a", "completion": "b"}], [{"prompt": "a", "answer": "b"}]]
    files = []
    for number, values in enumerate(sets):
        text = {"csv": ",".join(values[0]) + "\n" + ",".join(values[0].values()), "jsonl": json.dumps(values[0])}.get(kind)
        files.append(write(tmp_path / f"{number}.{kind}", text or columnar("parquet", values)))
    read = read_rows(files, Data())
    with pytest.raises(TuneError, match="completion") as caught:
        read_all(read, Data(), place=read.place)
    assert caught.value.problems[0].where == (f"{files[1]}:1" if kind == "jsonl" else f"{files[1]}, row 1")


def test_bad_rows_are_skipped_and_listed_where_the_recipe_says_so(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"a": 1}\nbad\n{"a": 3}\n[4]\n')
    with pytest.raises(TuneError) as caught:
        rows(path)
    assert caught.value.problems[0].where == f"{path}:2"
    read = read_rows([path], Data(on_error=OnError.skip))
    assert list(read) == [{"a": 1}, {"a": 3}]
    assert [p.where for p in read.skipped] == [f"{path}:2", f"{path}:4"]
    with pytest.raises(TuneError, match="no row could be read, 1 were skipped; the first: not valid JSON"):
        rows(write(tmp_path / "b.jsonl", "bad\n"), on_error=OnError.skip)


def test_rows_know_their_places_through_slices_and_choices(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.jsonl", '\n{"a": 1}\n\n{"a": 2}\n'), write(tmp_path / "b.csv", "a\n3\n4\n")]
    read = read_rows(files, Data())
    assert [read.place(i) for i in range(4)] == [f"{files[0]}:2", f"{files[0]}:4", f"{files[1]}, row 1", f"{files[1]}, row 2"]
    part = read.take([3, 1])
    assert (list(part), part.place(0), part.place(1)) == ([{"a": "4"}, {"a": 2}], f"{files[1]}, row 2", f"{files[0]}:4")
    assert isinstance(read[1:3], Rows)
    assert [read[1:3].place(i) for i in range(2)] == [f"{files[0]}:4", f"{files[1]}, row 1"]
    assert read[-1] == {"a": "4"}
    write(tmp_path / "b.csv", b"\xff")
    assert list(read_rows(files, Data(), limit=2)) == [{"a": 1}, {"a": 2}], "what is behind the limit is not read"


@pytest.mark.parametrize(
    ("path", "count", "options"),
    [
        ("gsm8k/train.jsonl", 7473, {}),
        ("alpaca_en/train.json", 999, {}),
        ("dpo_en/train.json", 300, {}),
        ("kto_en/train.json", 300, {}),
        ("toolcall_en/train.json", 300, {}),
        ("sst2/train.tsv", 6920, {"names": ["text", "label"]}),
        ("sst2/dev.tsv", 872, {"names": ["text", "label"]}),
        ("sts2012/MSRpar.train.tsv", 750, {"names": ["score", "sentence1", "sentence2"]}),
        ("sts2012/MSRpar.test.tsv", 750, {"names": ["score", "sentence1", "sentence2"]}),
        ("ncbi_disease/train.tsv", 5424, {}),
        ("ncbi_disease/devel.tsv", 923, {}),
        ("spoken_digits", 240, {"file_name": "{label}_{speaker}_{take}"}),
        ("wikipedia_text/train.txt", 30, {}),
    ],
)
def test_real_sets_are_read_whole(shared_data: Path, path: str, count: int, options: dict[str, Any]) -> None:
    files = find_files(str(shared_data / path), places=[shared_data])
    read = read_rows(files, Data(**options))
    assert len(read) == count
    assert len({tuple(row) for row in read}) == 1, "all rows have the same columns"
    if "sst2" in path:
        assert {row["label"] for row in read} == {"0", "1"}
    if "sts2012" in path:
        assert all(0 <= float(row["score"]) <= 5 for row in read)
    if "ncbi" in path:
        assert {tag for row in read for tag in row["tags"]} == {"O", "B-Disease", "I-Disease"}
    if "digits" in path:
        assert {row["label"] for row in read} == set("0123456789")


def test_spaces_around_the_names_of_columns_are_not_meant(tmp_path: Path) -> None:
    assert rows(write(tmp_path / "a.csv", "text , label\na , b\n")) == [{"text": "a ", "label": " b"}]
    assert rows(write(tmp_path / "b.csv", "text,text \na,b\n")) == [{"text": "a", "text ": "b"}], "two names that only a space tells apart"


def test_a_key_that_stands_twice_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "meta": {"x": 1, "x": 2}}\n{"text": "c"}\n')
    first, twice, last = found(path)
    assert (first, last) == ((1, {"text": "a"}), (3, {"text": "c"}))
    assert (twice[1].where, "`x` stands twice" in twice[1].what) == (f"{path}:2", True)
