"""Streams: every row once an epoch, the same order from any point on, split among ranks and workers, parts of files, what is skipped."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from torch.utils.data import DataLoader

from tests.lab import Lab, make_lab, tiny_tokenizer, train
from tuner.data.formats import shards as shard_module
from tuner.data.formats.shards import Shard, shards
from tuner.data.heads import heads
from tuner.data.journal import Journal
from tuner.data.splits import held_out, split
from tuner.data.stream import Stream, schedule
from tuner.data.streamed import stream
from tuner.errors import TuneError
from tuner.schema.data import Data

ON = ("data.streaming=true", "trainer.max_steps=5", "data.shuffle_rows=7")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "PART_BYTES", 1000)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return make_lab(tmp_path / "project", rows=60)


def opened(lab: Lab, *overrides: str, micro: int = 4) -> Stream:
    run = lab.run(*ON, *overrides)
    run.folder.mkdir(parents=True, exist_ok=True)
    assert hasattr(run.recipe.task, "packing")
    return stream(run, tiny_tokenizer(), run.recipe.task, micro=micro)  # type: ignore[arg-type]


def text(sample: Any) -> str:
    """A sample as text, whatever its kind."""
    rows = [sample] if isinstance(sample, dict) else sample
    return " | ".join(str(r["messages"][0]["content"]) if isinstance(r, dict) else str(tiny_tokenizer().decode(r.ids)) for r in rows)


def walked(found: Stream, count: int, *, start: int = 0, writes: bool = False) -> list[str]:
    return [text(sample) for sample in islice(found.samples(start, writes=writes), count)]


def test_an_epoch_has_every_row_once_in_an_order_of_its_own(lab: Lab) -> None:
    found = opened(lab)
    assert len(found.feeds[0].shards) > 3
    epochs = [walked(found, 60, start=start) for start in (0, 60, 120)]
    asked = {json.loads(line)["messages"][0]["content"] for line in (lab.folder / "train.jsonl").read_text().splitlines()}
    assert all(set(epoch) == asked and len(epoch) == 60 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert walked(opened(lab, "seed=1"), 60) != epochs[0]
    assert walked(opened(lab), 180) == [*epochs[0], *epochs[1], *epochs[2]]


@pytest.mark.parametrize(
    "how",
    [
        (),
        ("task.packing=true", "task.max_length=100"),
        ("data.overlong=split", "task.max_length=20"),
        ('data.transforms=[{filter: \'messages[0]["content"] > "h"\'}]',),
    ],
)
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
def test_from_any_point_on_it_is_the_same_stream(lab: Lab, how: tuple[str, ...], journal: bool) -> None:
    found = opened(lab, *how)
    whole = walked(found, 150, writes=journal)
    assert found.journal.is_file() == journal
    for start in (0, 1, 6, 7, 30, 61, 120, 149):
        assert walked(found, 150 - start, start=start) == whole[start:], start


def test_what_the_journal_knows_is_not_made_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(lab)
    walked(found, 150, writes=True)
    with found.journal.open("a") as torn:
        torn.write('{"part": [0, 9')
    made = []
    before = found.maker.samples
    monkeypatch.setattr(found.maker, "samples", lambda rows, *more: made.append(len(rows)) or before(rows, *more))
    walked(found, 1, start=140)
    assert sum(made) <= 7, "the block at hand alone"
    assert Journal(found.journal).read().whole


@given(world=st.sampled_from([1, 2, 3]), start=st.integers(0, 5))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_ranks_share_the_samples_of_one(lab: Lab, world: int, start: int) -> None:
    found = opened(lab, micro=4)
    begin = start * 4 * world
    alone = list(islice(iter(found.at(begin)), 12 * world))
    ranks = [list(islice(iter(found.at(begin, rank=rank, world=world)), 12)) for rank in range(world)]
    assert [batch for turn in zip(*ranks, strict=True) for batch in turn] == alone


@pytest.mark.slow
@pytest.mark.ci
def test_workers_make_the_batches_of_one_process(lab: Lab) -> None:
    outputs = []
    for workers in (0, 2):
        result = lab.tune("recipe=small", *ON, f"hardware.num_workers={workers}", "eval=none", "hub=none", f"output_dir=w{workers}")
        assert result.returncode == 0, result.stdout + result.stderr
        (log,) = lab.folder.glob(f"w{workers}/small/*/train_log.jsonl")
        outputs.append([json.loads(line)["loss"] for line in log.read_text().splitlines() if "loss" in line])
        (done,) = lab.folder.glob(f"w{workers}/small/*/adapter_model.safetensors")
        outputs.append(done.read_bytes())
    assert outputs[:2] == outputs[2:]


def test_so_many_workers_are_started_as_were_asked_for_and_none_is_forked(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    real = DataLoader.__init__

    def noted(self: Any, rows: Any, **options: Any) -> None:
        asked.append(options)
        real(self, rows, **(options | {"num_workers": 0, "multiprocessing_context": None}))

    monkeypatch.setattr(DataLoader, "__init__", noted)
    train(lab.run(*ON, "hardware.num_workers=3", "eval=none"))
    assert [(o["num_workers"], o["multiprocessing_context"]) for o in asked] == [(3, "spawn")]


def test_rows_move_within_their_block_and_no_further(lab: Lab) -> None:
    plain = opened(lab, "data.shuffle_rows=1")
    order = [int(sample[1:-1]) for sample in walked(plain, 60)]
    runs = [[order[0]]]
    for number in order[1:]:
        runs[-1].append(number) if number == runs[-1][-1] + 1 else runs.append([number])
    assert len(runs) <= len(plain.feeds[0].shards), "each part in its own order"
    assert walked(opened(lab, "data.shuffle_rows=60"), 60) != walked(plain, 60)


def test_a_run_says_what_it_took_and_left_out(lab: Lab) -> None:
    spoil(lab, 40)
    result = lab.tune("recipe=small", *ON, "data.on_error=skip", "trainer.batch_size=30", "eval=none", "hub=none")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "left out (data.on_error=skip): 1 row of the stream" in result.stdout.replace("\n", " ")
    (path,) = lab.folder.glob("outputs/small/*/data.json")
    found = json.loads(path.read_text())["streamed"]
    assert (found["samples"], found["skipped"]["rows"]) == (150, 1)
    assert "train.jsonl:40: " in found["skipped"]["first"][0]


def test_sources_come_in_their_shares(lab: Lab) -> None:
    counts = [0, 0, 0]
    for index in islice(schedule([0.5, 0.3, 0.2]), 1000):
        counts[index] += 1
    assert counts == [500, 300, 200]
    other = lab.folder / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"other {i}", "completion": "x"}) + "\n" for i in range(5)))
    path = lab.folder / "recipes" / "small.yaml"
    mix = "mix: {one: {path: FOLDER/train.jsonl, weight: 3}, two: {path: FOLDER/other.jsonl, weight: 1}}"
    path.write_text(path.read_text().replace(f"path: {lab.folder}/train.jsonl", mix.replace("FOLDER", str(lab.folder))))
    found = opened(lab)
    whole = walked(found, 80, writes=True)
    assert sum(sample.startswith("other") for sample in whole) == 20
    assert walked(found, 30, start=50) == whole[50:]


def test_the_first_rows_are_held_out_and_never_streamed(lab: Lab) -> None:
    path = lab.folder / "recipes" / "small.yaml"
    path.write_text(path.read_text().replace(f", eval_path: {lab.folder}/eval.jsonl", ""))
    run = lab.run(*ON, "data.eval_rows=33")
    rows = [str(row["messages"][0]["content"]) for row in held_out(run)]
    first = [json.loads(line)["messages"][0]["content"] for line in (lab.folder / "train.jsonl").read_text().splitlines()[:33]]
    assert rows == first
    found = opened(lab, "data.eval_rows=33")
    assert not set(walked(found, 54)) & set(rows)
    assert len(set(walked(found, 27))) == 27
    assert sum(heads(run)[0].held_out.values()) == 33
    assert len(split(run)[0]) == 27


@given(lengths=st.lists(st.integers(0, 3000), min_size=1, max_size=20), end=st.booleans())
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_parts_of_a_file_are_its_rows(tmp_path: Path, lengths: list[int], end: bool) -> None:
    path = tmp_path / "big.jsonl"
    lines = [json.dumps({"text": "ä" * length}) for length in lengths]
    path.write_text("\n".join(lines) + ("\n" if end else ""), encoding="utf-8")
    found = shards([str(path)], Data())
    rows = [(shard.number(number), row) for shard in found for number, row in shard.rows(Data())]
    assert rows == [(number, json.loads(line)) for number, line in enumerate(lines, 1)]


def test_parts_of_parquet_are_groups_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "big.parquet"
    parquet.write_table(pyarrow.table({"text": [f"{i} " * 50 for i in range(100)]}), path, row_group_size=10)
    found = shards([str(path)], Data())
    assert len(found) == 10
    read = [(shard.number(number), row) for shard in found for number, row in shard.rows(Data())]
    rows = [(number, row["text"].split()[0]) for number, row in read if isinstance(row, dict)]
    assert rows == [(i + 1, str(i)) for i in range(100)]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl.gz", "a.json", "wide.jsonl"])
def test_other_files_are_one_part(tmp_path: Path, name: str) -> None:
    import gzip

    path = tmp_path / name
    rows = [{"text": f"row {i} {'x' * 50}"} for i in range(100)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    content = {
        "a.csv": ("text\n" + "".join(row["text"] + "\n" for row in rows)).encode(),
        "a.jsonl.gz": gzip.compress(lines.encode()),
        "a.json": json.dumps(rows).encode(),
        "wide.jsonl": lines.encode("utf-16"),
    }[name]
    path.write_bytes(content)
    found = shards([str(path)], Data())
    assert len(found) == 1
    assert [row for _, row in found[0].rows(Data())] == rows


def spoil(lab: Lab, line: int, content: str = '{"messages": [}') -> None:
    path = lab.folder / "train.jsonl"
    lines = path.read_text().splitlines()
    lines[line - 1] = content
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("content", ['{"messages": [}', '{"nothing": 1}'])
def test_a_bad_row_far_in_is_named_by_its_line(lab: Lab, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.heads.SAMPLE_ROWS", 10)
    spoil(lab, 50, content)
    with pytest.raises(TuneError) as caught:
        walked(opened(lab), 60)
    assert caught.value.problems[0].where.endswith("train.jsonl:50")
    batches = list(islice(iter(opened(lab)), 60))
    assert batches[-1][0].where.endswith("train.jsonl:50"), "out of a worker too"  # type: ignore[union-attr]


@pytest.mark.parametrize("content", ['{"messages": [}', '{"nothing": 1}'])
def test_skipped_rows_are_counted_and_listed(lab: Lab, content: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.heads.SAMPLE_ROWS", 10)
    spoil(lab, 50, content)
    found = opened(lab, "data.on_error=skip")
    first, second = walked(found, 59, writes=True), walked(found, 59, start=59, writes=True)
    assert set(first) == set(second)
    assert len(set(first)) == 59
    (told,) = Journal(found.journal).read().skipped
    assert "train.jsonl:50: " in told


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("trainer.max_steps=null", "a stream has no length"),
        ("data.eval_path=null", "no share of a stream can be held out"),
        ("data.limit=5", "a stream has no limit"),
        ("data.transforms=[drop_duplicates]", "`drop_duplicates` needs all rows"),
        ("data.eval_group=x", "`data.eval_group` needs all rows"),
        ("data.streaming=false hardware.num_workers=2", "`hardware.num_workers` is for streams"),
    ],
)
def test_what_a_stream_cannot_do_is_told_in_the_plan(lab: Lab, change: str, what: str) -> None:
    with pytest.raises(TuneError) as caught:
        lab.plan(*ON, *change.split())
    assert any(what in problem.what for problem in caught.value.problems)


def test_a_stream_of_nothing_to_train_ends(lab: Lab) -> None:
    found = opened(lab, 'data.transforms=[{filter: \'messages[0]["content"] > "a"\'}]')
    found.maker.blocks.data.transforms[:] = [{"filter": "len(messages) > 9"}]  # type: ignore[attr-defined]
    with pytest.raises(TuneError, match="no row of the stream can be trained"):
        walked(found, 1)


def test_a_part_can_be_told_from_its_file() -> None:
    shard = Shard(path="x.jsonl", form=Data().format, before=7)
    assert (shard.name, shard.number(3)) == ("x.jsonl", 10)


def test_card_and_report_say_what_was_streamed(lab: Lab) -> None:
    result = lab.tune("recipe=small", *ON, "trainer.batch_size=30", "eval.generate=false")
    assert result.returncode == 0, result.stdout + result.stderr
    (folder,) = lab.folder.glob("outputs/small/*")
    assert "on 150 rows of a stream" in (folder / "README.md").read_text()
    assert "150 rows of a stream" in (folder / "report.html").read_text()


def test_what_is_skipped_at_the_beginning_is_told_and_listed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.heads.SAMPLE_ROWS", 20)
    for line in (2, 15, 50):
        spoil(lab, line)
    path = lab.folder / "recipes" / "small.yaml"
    path.write_text(path.read_text().replace(f", eval_path: {lab.folder}/eval.jsonl", ""))
    run = lab.run(*ON, "data.eval_rows=5", "data.on_error=skip")
    train, _ = split(run)
    assert [p.where.rpartition(":")[2] for p in held_out(run).skipped + train.skipped] == ["2", "15"]
    assert sum("could not be read" in line for line in lab.told) == 2
    found = opened(lab, "data.eval_rows=5", "data.on_error=skip")
    walked(found, 60, writes=True)
    assert sorted(int(told.split(":")[1]) for told in Journal(found.journal).read().skipped) == [2, 15, 50]


def test_nothing_readable_says_why(lab: Lab) -> None:
    (lab.folder / "train.jsonl").write_text("nope\n")
    with pytest.raises(TuneError, match="1 were skipped, the first: not valid JSON"):
        split(lab.run(*ON, "data.on_error=skip"))


def test_a_streamed_mix_is_previewed(lab: Lab) -> None:
    (lab.folder / "other.jsonl").write_text("".join(json.dumps({"prompt": f"other {i}", "completion": "x"}) + "\n" for i in range(9)))
    path = lab.folder / "recipes" / "small.yaml"
    mix = "mix: {one: {path: FOLDER/train.jsonl, weight: 3}, two: {path: FOLDER/other.jsonl, weight: 1}}"
    path.write_text(path.read_text().replace(f"path: {lab.folder}/train.jsonl", mix.replace("FOLDER", str(lab.folder))))
    result = lab.tune("preview", "recipe=small", *ON)
    assert (result.returncode, result.stderr) == (0, "")
    assert "one  " in result.stdout
