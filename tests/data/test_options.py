"""Options that only some formats read: one that no file reads is refused, where it would be passed over."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from tests.lab import make_lab
from tuner import cli
from tuner.data.load import Rows
from tuner.data.mix import Part
from tuner.data.options import unread
from tuner.errors import TuneError
from tuner.schema.data import Data, Format, SampleBy


def rows(*forms: Format | None) -> Rows:
    """Rows of files of these formats."""
    found = Rows()
    for form in forms:
        found.append({}, (f"a.{form}", 1, form))
    return found


def part(name: str = "", **options: object) -> Part:
    return Part(name=name, data=Data(**options), files=[])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "form"),
    [
        ({"names": ["a"]}, Format.tsv),
        ({"names": ["a"]}, Format.conll),
        ({"sample_by": SampleBy.document}, Format.text),
        ({"sample_by": SampleBy.line}, Format.jsonl),  # as it is anyway
        ({"record": "item"}, Format.xml),
        ({"file_name": "{label}_{take}"}, Format.audio),
        ({"query": "select 1", "url": "sqlite:///a"}, Format.sql),
    ],
)
def test_an_option_that_a_file_reads_is_taken(options: dict[str, object], form: Format) -> None:
    asked = dict(options)
    unread([part(**asked)], [rows(form)], rows())
    unread([part(**asked)], [rows(Format.parquet)], rows(form))  # held-out files may be what needs it
    if asked != {"sample_by": SampleBy.line}:
        with pytest.raises(TuneError, match=r"is read from .*, and here is parquet"):
            unread([part(**asked)], [rows(Format.parquet)], rows())


def test_it_is_told_of_which_source() -> None:
    found = [part("one", names=["a"]), part("two", names=["a"])]
    with pytest.raises(TuneError) as told:
        unread(found, [rows(Format.csv), rows(None)], rows())
    assert told.value.problems[0].where == "data.mix.two.names"
    assert told.value.problems[0].what == "`data.mix.two.names` is read from csv, tsv, conll, and here is a set of the Hub"


def test_a_check_tells_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lab = make_lab(tmp_path)
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"prompt": f"q{i}", "completion": f"a{i}"}) + "\n" for i in range(20)))
    with contextlib.chdir(lab.folder):
        assert cli.main(["check", "recipe=small", "data=custom", f"data.path={tmp_path}/a.jsonl", "data.sample_by=document"]) == 2
    said = capfd.readouterr().err
    assert "`data.sample_by` is read from text, and here is jsonl" in said
    assert said.count("error:") == 1
