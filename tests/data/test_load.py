"""Reading rows: every format gives the same rows, and what is broken is named with file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from tuner.data import load
from tuner.errors import TuneError
from tuner.schema.data import Data, Format

ROWS = [{"prompt": "größer?", "completion": "ja, 😀"}, {"prompt": "a\nb", "completion": 'say "x, y"'}]


def read_rows(files: list[str], *, form: Format = Format.auto) -> list[dict[str, Any]]:
    return list(load.read_rows(files, Data(format=form)))


def write(path: Path, text: str, *, encoding: str = "utf-8") -> list[str]:
    path.write_bytes(text.encode(encoding))
    return [str(path)]


def lines(rows: list[dict[str, Any]] = ROWS) -> str:
    return "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)


def separated(mark: str) -> str:
    return f'prompt{mark}completion\ngrößer?{mark}"ja, 😀"\n"a\nb"{mark}"say ""x, y"""\n'


def problem(files: list[str], *, form: Format = Format.auto) -> Any:
    with pytest.raises(TuneError) as caught:
        read_rows(files, form=form)
    assert caught.value.code == 2
    (found,) = caught.value.problems
    return found


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", lines()),
        ("a.ndjson", lines()),
        ("A.JSONL", lines()),
        ("blank.jsonl", "\n" + lines().replace("\n", "\n\n") + "   \n"),
        ("crlf.jsonl", lines().replace("\n", "\r\n")),
        ("noend.jsonl", lines().rstrip("\n")),
        ("a.json", json.dumps(ROWS)),
        ("pretty.json", json.dumps(ROWS, indent=2)),
        ("wrapped.json", json.dumps({"version": 3, "data": ROWS})),
        ("lines.json", lines()),
        ("a.csv", separated(",")),
        ("a.tsv", separated("\t")),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_every_text_format_gives_the_same_rows(tmp_path: Path, name: str, text: str, encoding: str) -> None:
    assert read_rows(write(tmp_path / name, text, encoding=encoding)) == ROWS


def test_parquet_keeps_nested_columns(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}], "n": 1}, {"messages": [], "n": None}]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    assert read_rows([str(tmp_path / "a.parquet")]) == rows


def test_several_files_are_read_in_order_and_by_their_own_format(tmp_path: Path) -> None:
    files = write(tmp_path / "b.jsonl", lines(ROWS[:1])) + write(tmp_path / "a.json", json.dumps(ROWS[1:]))
    assert read_rows(files) == ROWS


def test_the_format_can_be_said_where_the_name_is_silent(tmp_path: Path) -> None:
    files = write(tmp_path / "rows.xyz", "neither this\nnor that")
    assert "set `data.format` to one of json, jsonl, csv, tsv, parquet, arrow, text" in problem(files).fix
    assert read_rows(files, form=Format.text) == [{"text": "neither this"}, {"text": "nor that"}]
    assert read_rows(write(tmp_path / "odd.csv", separated("\t")), form=Format.tsv) == ROWS


def test_one_row_alone_under_json(tmp_path: Path) -> None:
    assert read_rows(write(tmp_path / "a.json", json.dumps(ROWS[0], indent=1))) == ROWS[:1]
    assert read_rows(write(tmp_path / "b.json", lines(ROWS[:1]))) == ROWS[:1]


@pytest.mark.parametrize(("name", "line"), [("a.jsonl", 3), ("a.json", 3)])
def test_broken_json_lines_are_named_by_file_and_line(tmp_path: Path, name: str, line: int) -> None:
    files = write(tmp_path / name, lines() + '{"prompt": "x", "completion" "y"}\n' + lines())
    found = problem(files)
    assert found.where == f"{files[0]}:{line}"
    assert '{"prompt": "x", "completion" "y"}' in found.what
    assert "not valid JSON" in found.what
    assert "column 30" in found.what


def test_broken_pretty_json_is_named_by_its_line(tmp_path: Path) -> None:
    text = json.dumps(ROWS, indent=1, ensure_ascii=False).replace('"a\\nb",', '"a\\nb"')  # a comma is missing after line 7
    files = write(tmp_path / "a.json", text)
    assert text.splitlines()[6].strip() == '"prompt": "a\\nb"'
    assert problem(files).where == f"{files[0]}:8"


def test_a_truncated_last_line_is_named(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", lines()[:-8])
    assert problem(files).where == f"{files[0]}:2"


@pytest.mark.parametrize(("value", "kind"), [("[1, 2]", "list"), ('"text"', "str"), ("3", "int"), ("null", "NoneType")])
def test_a_row_that_is_no_mapping_is_named(tmp_path: Path, value: str, kind: str) -> None:
    files = write(tmp_path / "a.jsonl", f'{{"prompt": "a"}}\n{value}\n')
    found = problem(files)
    assert (found.where, f"not {kind}" in found.what) == (f"{files[0]}:2", True)
    array = write(tmp_path / "a.json", f'[{{"prompt": "a"}}, {value}]')
    found = problem(array)
    assert (found.where, f"not {kind}" in found.what) == (f"{array[0]}, row 2", True)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
@pytest.mark.parametrize("text", ["", "\n\n"])
def test_no_rows_is_told_with_the_file(tmp_path: Path, name: str, text: str) -> None:
    found = problem(write(tmp_path / name, text))
    assert (found.what, found.where) == ("the dataset is empty", str(tmp_path / name))


def test_an_empty_array_and_a_lone_header_are_empty_too(tmp_path: Path) -> None:
    assert problem(write(tmp_path / "a.json", "[]")).what == "the dataset is empty"
    assert problem(write(tmp_path / "a.csv", "prompt,completion\n")).what == "the dataset is empty"


@pytest.mark.parametrize(("row", "word"), [("only one", "fewer"), ("a,b,c", "more")])
def test_a_ragged_csv_row_is_named_by_its_line(tmp_path: Path, row: str, word: str) -> None:
    files = write(tmp_path / "a.csv", f'prompt,completion\n"x\ny",z\n{row}\n')
    found = problem(files)
    assert found.where == f"{files[0]}:4", "the quoted line break counts as a line"
    assert found.what == f"{word} values than the 2 columns of the first line"


def test_text_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    files = write(tmp_path / "a.jsonl", '{"prompt": "größer"}\n', encoding="latin-1")
    found = problem(files)
    assert "not UTF-8" in found.what
    assert "byte 14" in found.what
    assert (found.where, found.fix) == (f"{files[0]}:1", "save the file as UTF-8")


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    files = write(tmp_path / "a.parquet", "not parquet at all")
    found = problem(files)
    assert found.where == files[0]
    assert "Parquet" in found.what


def test_a_file_that_is_gone_is_told(tmp_path: Path) -> None:
    assert problem([str(tmp_path / "gone.jsonl")]).where == str(tmp_path / "gone.jsonl")


def test_a_huge_csv_cell_is_read(tmp_path: Path) -> None:
    text = "x" * 200_000
    assert read_rows(write(tmp_path / "a.csv", f"prompt,completion\n{text},y\n")) == [{"prompt": text, "completion": "y"}]


@pytest.mark.parametrize(
    ("name", "text", "line", "what"),
    [
        (
            "a.jsonl",
            '{"prompt": "a"}\n{"prompt": "x", "completion": \n{"prompt": "b"}\n',
            2,
            'it breaks off here: {"prompt": "x", "completion":',
        ),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt": \r\n', 2, 'it breaks off here: {"prompt":'),
        ("a.json", '[{"prompt": "a"},\n{"prompt": "b",\n\n', 2, 'it breaks off here: {"prompt": "b",'),
        ("a.jsonl", '{"prompt": "a"}\n\ufeff{"prompt": "b"}\n', 2, "a byte-order mark within the file"),
    ],
)
def test_json_that_breaks_off_is_named_with_the_line_it_is_on(tmp_path: Path, name: str, text: str, line: int, what: str) -> None:
    files = write(tmp_path / name, text)
    found = problem(files)
    assert (found.where, what in found.what) == (f"{files[0]}:{line}", True)


def test_one_conversation_in_a_json_file_is_one_row(tmp_path: Path) -> None:
    talk = {"id": 1, "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    assert read_rows(write(tmp_path / "one.json", json.dumps(talk))) == [talk]
