"""Where rows come from: folders, links, URLs, databases. What cannot be had is one message, and no password is ever in it."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fsspec
import pytest
from datasets import Audio, Dataset

from tuner.data import splits
from tuner.data.formats import read_file, sql
from tuner.data.hub import hub_rows
from tuner.data.load import read_rows
from tuner.data_rules import rows as rows_rule
from tuner.errors import TuneError
from tuner.files import find_files, format_of, has_password, hashes, is_remote
from tuner.schema.data import Data, Format, OnError
from tuner.schema.eval import Eval
from tuner.schema.recipe import Recipe
from tuner.schema.task import Sft
from tuner.schema.trainer import Trainer

LINES = '{"a": 1}\n{"a": 2}\n'


def failure(files: list[str], code: int, **data: Any) -> Any:
    with pytest.raises(TuneError) as caught:
        read_rows(files, Data(**data))
    assert caught.value.code == code
    (problem,) = caught.value.problems
    return problem


# Folders and files.


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")


def names(folder: Path, form: str = "auto") -> list[str]:
    return [os.path.relpath(f, folder) for f in find_files(str(folder), places=[folder], form=form)]


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("a.jsonl.gz", "jsonl"),
        ("A.CSV.ZST", "csv"),
        ("a.tar.gz", "webdataset"),
        ("a.tgz", "webdataset"),
        ("b.JPG", "images"),
        ("a.gz", None),
        ("jsonl", None),
        ("https://host/a.tsv.xz?download=1#top", "tsv"),
        ("s3://bucket/a?b.csv", "csv"),
    ],
)
def test_endings_say_the_format_compressed_or_not(name: str, form: str | None) -> None:
    assert format_of(name) == form


def test_a_folder_of_tables_is_its_tables(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl.gz", "a.csv", "words.txt", "logo.png", "sub/c.csv", ".hidden.csv", "notes.pdf", "metadata.csv")
    assert names(tmp_path) == ["a.csv", "b.jsonl.gz"]
    assert names(tmp_path, "text") == ["words.txt"]
    assert names(tmp_path, "images") == ["logo.png", "metadata.csv"]
    assert names(tmp_path, "csv") == ["a.csv"]


def test_a_folder_of_media_is_searched_to_its_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.jpg", "a/deep/1.png", "0.wav", "metadata.jsonl", "a/metadata.csv", "LICENSE.txt", ".git/x.jpg")
    assert names(tmp_path) == ["0.wav", "metadata.jsonl", "a/metadata.csv", "a/deep/1.png", "b/2.jpg"]
    assert names(tmp_path, "audio") == ["0.wav", "metadata.jsonl", "a/metadata.csv"]


def test_folders_of_texts_and_of_nothing(tmp_path: Path) -> None:
    touch(tmp_path / "texts", "b.txt", "a.txt.gz", "c.md", "README.md", "LICENSE", "License.txt")
    assert names(tmp_path / "texts") == ["a.txt.gz", "b.txt", "c.md"]
    touch(tmp_path / "rows", "metadata.jsonl")
    assert names(tmp_path / "rows") == ["metadata.jsonl"], "without media it is a table like any other"
    touch(tmp_path / "none", "a.pdf", "README.md")
    with pytest.raises(TuneError, match="no data files in the folder"):
        names(tmp_path / "none")


def test_links_keep_their_names_and_do_not_go_round_in_circles(tmp_path: Path) -> None:
    touch(tmp_path, "blobs/0123", "store/x/1.jpg", "photos/dogs/1.jpg")
    (tmp_path / "train.jsonl").symlink_to(tmp_path / "blobs/0123")
    assert find_files("train.jsonl", places=[tmp_path]) == [str(tmp_path / "train.jsonl")], "as the Hub's cache keeps files"
    (tmp_path / "photos/cats").symlink_to(tmp_path / "store/x")
    (tmp_path / "photos/dogs/up").symlink_to(tmp_path / "photos")
    assert names(tmp_path / "photos") == ["cats/1.jpg", "dogs/1.jpg"]


def test_the_label_is_part_of_what_is_hashed(tmp_path: Path) -> None:
    touch(tmp_path, "cats/1.jpg")
    before = hashes([str(tmp_path / "cats/1.jpg")])
    os.rename(tmp_path / "cats", tmp_path / "dogs")
    assert hashes([str(tmp_path / "dogs/1.jpg")]) != before


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are remembered here."""
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / ".cache"))


# URLs.


class Handler(BaseHTTPRequestHandler):
    """Serves LINES, and one answer that breaks off."""

    def do_GET(self) -> None:
        content = LINES.encode()
        if not self.path.startswith(("/train.jsonl", "/cut.jsonl")):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(content) * (2 if "cut" in self.path else 1)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def server() -> Iterator[str]:
    """Address of a local web server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()
        thread.join()


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's file system in memory, empty again afterwards."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


def test_urls_are_kept_as_they_are(tmp_path: Path) -> None:
    for url in ("s3://bucket/a b/*.csv", "gs://b/x", "az://c/x", "hf://datasets/o/n/x.parquet", "https://h/x?y=1", "memory://x"):
        assert is_remote(url)
        assert find_files(url, places=[tmp_path]) == [url]
        assert hashes([url]) == [url]
    touch(tmp_path, "a.csv")
    assert find_files(f"file://{tmp_path}/a.csv", places=[tmp_path]) == [str(tmp_path / "a.csv")]
    assert not is_remote("a.csv")


def test_a_web_address_is_read(server: str) -> None:
    read = read_rows([f"{server}/train.jsonl?key=secret"], Data())
    assert list(read) == [{"a": 1}, {"a": 2}]
    assert read.place(1) == f"{server}/train.jsonl:2", "the query may hold a key"


def test_an_answer_that_breaks_off_is_no_shorter_file(server: str) -> None:
    problem = failure([f"{server}/cut.jsonl"], 4)
    assert "cannot fetch the file" in problem.what


@pytest.mark.parametrize("path", ["/gone.jsonl", "/gone.jsonl?sig=hush"])
def test_a_missing_page_is_told(server: str, path: str) -> None:
    problem = failure([server + path], 4)
    assert "404" in problem.what
    assert "hush" not in str(problem)


def test_a_host_that_does_not_answer_is_told() -> None:
    problem = failure(["http://127.0.0.1:9/train.jsonl"], 4)
    assert (problem.where, "refused" in problem.what) == ("http://127.0.0.1:9/train.jsonl", True)


@pytest.mark.parametrize(("url", "package"), [("s3://b/a.csv", "s3fs"), ("gs://b/a.csv", "gcsfs"), ("az://b/a.csv", "adlfs")])
@pytest.mark.parametrize("many", [False, True])
def test_a_protocol_whose_package_is_missing_names_it(url: str, package: str, many: bool) -> None:
    pytest.importorskip("fsspec")
    try:
        fsspec.get_filesystem_class(url.split(":")[0])
    except ImportError:
        assert failure([url.replace("a.csv", "*.csv") if many else url], 4).fix == f"pip install {package}"
    else:
        pytest.skip(f"{package} is installed here")


def test_an_unknown_protocol_and_a_password_are_refused() -> None:
    assert "Protocol not known: nope" in failure(["nope://b/a.csv"], 4).what
    problem = failure(["https://me:hush@host/a.csv"], 2)
    assert (problem.what, "hush" in str(problem)) == ("the URL holds a password", False)


def test_remote_files_of_every_kind(memory: Any) -> None:
    memory.pipe("/d/a.jsonl", LINES.encode())
    memory.pipe("/d/b.csv", b"a\n3\n")
    assert list(read_rows(["memory://d/*"], Data())) == [{"a": 1}, {"a": 2}, {"a": "3"}]
    assert read_rows(["memory://d/a.jsonl"], Data()).place(0) == "memory://d/a.jsonl:1"
    assert dict(read_file("memory://d/b.csv", Data())) == {1: {"a": "3"}}
    assert failure(["memory://none/*.csv"], 2).what == "nothing matches"
    assert failure(["memory://none/a.csv"], 4).where == "memory://none/a.csv"


def test_remote_images_are_refused(memory: Any) -> None:
    memory.pipe("/d/a.jpg", b"x")
    assert "read from this machine only" in failure(["memory://d/a.jpg"], 2).what


# Databases.


@pytest.fixture
def database(tmp_path: Path) -> str:
    """URL of a database with three tickets."""
    with sqlite3.connect(tmp_path / "t.db") as connection:
        connection.execute("create table tickets (mail text, n integer)")
        connection.executemany("insert into tickets values (?, ?)", [("größer", 1), ("5% off: now", 2), (None, 3)])
    connection.close()
    return f"sqlite:///{tmp_path / 't.db'}"


def test_a_query_s_result_are_the_rows(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [{"mail": "größer", "n": 1}, {"mail": "5% off: now", "n": 2}, {"mail": None, "n": 3}]
    read = read_rows([], Data(url=database, query="select * from tickets order by n"))
    assert (list(read), read.place(2)) == (expected, "data.query, row 3")
    monkeypatch.setenv("TICKETS", database)
    given = Data(url_env="TICKETS", query="select mail, n from tickets where mail like '5%:%' or mail = ':x'")
    assert list(read_rows([], given)) == expected[1:2]
    assert len(read_rows([], Data(url=database, query="select * from tickets"), limit=2)) == 2
    assert [n for n, _ in read_file("", Data(url=database, query="select * from tickets"))] == [1, 2, 3]


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ("select * from gone", "no such table: gone"),
        ("selec", "syntax error"),
        ("select n, n from tickets", "two columns are called 'n'"),
        ("delete from tickets", "does not return rows"),
        ("select * from tickets where 0", "the dataset is empty"),
    ],
)
def test_a_query_that_gives_no_rows_is_told(database: str, query: str, what: str) -> None:
    problem = failure([], 2, url=database, query=query)
    assert (what in problem.what, problem.where) == (True, "data.query")
    assert len(read_rows([], Data(url=database, query="select * from tickets"))) == 3, "nothing is changed"


@pytest.mark.parametrize("url", ["postgresql://me:hush@host/db", "mysql://host/db?user=me&password=hush", "mssql://h/d?PWD=hush"])
def test_a_password_belongs_into_the_environment(url: str) -> None:
    problem = failure([], 2, url=url, query="select 1")
    assert "data.url_env" in problem.fix
    assert "hush" not in str(problem)
    recipe = Recipe()
    recipe.data, recipe.eval, recipe.trainer = Data(url=url, query="select 1"), Eval(), Trainer()
    (found,) = [f for f in rows_rule(recipe) if f[0] == "data.url"]
    assert ("password" in found[1], "hush" in str(found)) == (True, False)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://me:hu%2Fsh@host/db",
        "sqlite:///nowhere/x.db?password=hush",
        "nonsense hush",
        "nope://me:hush@h/d",
        "postgresql+nope://me:hush@h/d",
    ],
)
def test_no_message_shows_the_password_of_the_environment(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE", url)
    with pytest.raises(TuneError) as caught:
        read_rows([], Data(url_env="DATABASE", query="select 1"))
    shown = str(caught.value.problems) + str(caught.value)
    assert not any(secret in shown for secret in ("hush", "hu/sh", "hu%2Fsh"))
    assert caught.value.__cause__ is None, "a cause would be printed with the URL in it"


def test_the_driver_s_own_words_are_masked() -> None:
    url = SimpleNamespace(password="hu/sh", query={"sslpassword": "key", "timeout": "5"})
    words = "cannot log in as hu/sh or hu%2Fsh with key in 5 s"
    assert sql._reason(ValueError(f"{words}\nmore"), url) == "cannot log in as *** or *** with *** in 5 s"


@pytest.mark.parametrize(
    ("data", "where", "word"),
    [
        ({"url": "sqlite:///gone.db", "query": "select 1"}, "data.url", "no such file: gone.db"),
        ({"url": "sqlite:///gone.db"}, "data.query", "needs `data.query`"),
        ({"url_env": "NOT_SET_HERE", "query": "select 1"}, "data.url_env", "NOT_SET_HERE is not set"),
        ({"format": Format.sql, "query": "select 1"}, "data.url", "no database is named"),
    ],
)
def test_what_is_missing_for_a_database_is_named(data: dict[str, Any], where: str, word: str, tmp_path: Path) -> None:
    problem = failure([], 2, **data)
    assert (problem.where, word in problem.what) == (where, True)
    assert not Path("gone.db").exists()


def test_without_sqlalchemy_the_extra_is_named(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> ModuleType:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sql, "load", load)
    assert 'pip install "tuner[sql]"' in failure([], 4, url=database, query="select 1").fix


def test_a_driver_that_is_not_installed_is_named() -> None:
    problem = failure([], 4, url="postgresql+psycopg://host/db", query="select 1")
    assert ("psycopg" in problem.what, problem.where) == (True, "data.url")


@pytest.mark.parametrize(("url", "found"), [("postgresql://u:p@h/d", True), ("postgresql://u@h/d", False), ("x://[", False)])
def test_passwords_are_seen(url: str, found: bool) -> None:
    assert has_password(url) is found


# A run's rows.


def run(files: dict[str, list[str]], **data: Any) -> Any:
    told: list[str] = []
    recipe = SimpleNamespace(data=Data(**data), task=Sft(), seed=1)
    return SimpleNamespace(
        recipe=recipe, plan=SimpleNamespace(files=files, has=lambda name: False), keep=lambda _, make: make(), tell=told.append, told=told
    )


def test_held_out_rows_keep_their_places_and_skipped_ones_are_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(f'{{"a": {i}}}\n' for i in range(1, 11)) + "bad\n" * 7, encoding="utf-8")
    given = run({"data.path": [str(path)]}, path="a.jsonl", eval_fraction=0.3, on_error=OnError.skip)
    train, held_out = splits.split(given)
    assert (len(train), len(held_out)) == (7, 3)
    for part in (train, held_out):
        assert [part.place(i) for i in range(len(part))] == [f"{path}:{row['a']}" for row in part]
    assert given.told[0].startswith("7 rows could not be read")
    assert f"{path}:11" in given.told[1]
    assert "2 more" in given.told[-1]
    assert splits.left_out(1) == "1 row could not be read and is left out"


def test_training_rows_from_a_database_and_held_out_rows_from_a_file(database: str, tmp_path: Path) -> None:
    path = tmp_path / "eval.jsonl"
    path.write_text(LINES, encoding="utf-8")
    given = run({"data.eval_path": [str(path)]}, url=database, query="select * from tickets", format=Format.sql, eval_path="eval.jsonl")
    train, held_out = splits.split(given)
    assert (len(train), list(held_out)) == (3, [{"a": 1}, {"a": 2}])


def test_hub_rows_know_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(LINES, encoding="utf-8")
    found = Dataset.from_list([json.loads(line) for line in LINES.splitlines()])
    loaded = SimpleNamespace(disable_progress_bars=lambda: None, load_dataset=lambda *_, **__: found, Audio=Audio)
    monkeypatch.setattr("tuner.data.hub.load", lambda _: loaded)
    read = hub_rows(Data(id="org/set"), "train")
    assert (list(read), read.place(1)) == ([{"a": 1}, {"a": 2}], "org/set, row 2")
