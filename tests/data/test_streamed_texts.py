"""Plain texts of a stream: full rows, end to end over blocks, files and epochs; no token lost, none twice, from any sample on."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from itertools import chain, islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, by_two_and_by_one, losses_of, make_lab, task_of, tiny_tokenizer, train, weights_of
from tests.tasks.test_pretrain import RECIPE
from tuner.data.formats import shards as shard_module
from tuner.data.journal import Journal
from tuner.data.splits import split
from tuner.data.store import TokenRows
from tuner.data.stream import Stream
from tuner.data.streamed_texts import stream
from tuner.errors import TuneError
from tuner.train.checkpoints import all_checkpoints

ON = ("data.streaming=true", "trainer.max_steps=8", "data.shuffle_rows=7")
LENGTH = 32
END = tiny_tokenizer().eos_token_id


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "PART_BYTES", 500)


def text_of(index: int) -> str:
    """Texts that are different everywhere, from 19 to 91 tokens: some share a row with others, some go over several."""
    return f"{index:03d} the cats sat." * (1 + index * index % 7) + "!" * (1 + index % 5)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    found = make_lab(tmp_path / "lab", recipe=RECIPE)
    (found.folder / "train.txt").write_text("".join(f"{text_of(i)}\n" for i in range(50)), encoding="utf-8")
    (found.folder / "eval.txt").write_text("a dog ran off.\n" * 3, encoding="utf-8")
    return found


def opened(lab: Lab, *overrides: str, micro: int = 4) -> Stream:
    run = lab.run(*ON, *overrides)
    run.folder.mkdir(parents=True, exist_ok=True)
    return stream(run, tiny_tokenizer(), LENGTH, micro=micro)


def walked(found: Stream, count: int, *, start: int = 0, writes: bool = False) -> list[Any]:
    return list(islice(found.samples(start, writes=writes), count))


def flat(rows: list[Any]) -> list[int]:
    """The tokens of rows, end to end."""
    return [token for row in rows for piece in row for token in piece]


def told(tokens: list[int]) -> list[str]:
    """Whole texts among tokens."""
    edges = [-1, *(place for place, token in enumerate(tokens) if token == END)]
    return [str(tiny_tokenizer().decode(tokens[a + 1 : b])) for a, b in pairwise(edges)]


def test_rows_are_those_of_texts_that_are_not_streamed(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the file: all full rows are the same, cut at the same places; the last, short one is filled from its beginning."""
    monkeypatch.setattr(shard_module, "PART_BYTES", 32 << 20)
    run = lab.run()
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    stored = TokenRows(run.stage_folder("prepare"))
    expected = [[piece["input_ids"] for piece in stored[index]["rows"]] for index in range(len(stored))]
    found = walked(opened(lab, "data.shuffle_rows=1"), len(expected))
    assert found[:-1] == expected[:-1]
    assert len(expected) > 50
    last = len(flat(expected[-1:]))
    assert 0 < last < LENGTH, "else nothing would go on"
    assert flat(found[-1:]) == flat(expected[-1:]) + flat(expected)[: LENGTH - last]
    items = opened(lab).maker.items(found[:2])
    assert items == [stored[0], stored[1]]


def test_each_text_comes_once_an_epoch(lab: Lab) -> None:
    found = opened(lab, "data.shuffle_rows=1")
    every = [text_of(i) for i in range(50)]
    texts = told(flat(walked(found, 180)))
    assert sorted(texts[:50]) == sorted(texts[50:100]) == every
    assert texts[:50] != texts[50:100]


@pytest.mark.parametrize("together", [1, 7, 50])
def test_no_token_is_lost_and_every_row_is_full(lab: Lab, together: int) -> None:
    """Of three epochs: what is not in their rows is what the journal says is left."""
    found = opened(lab, f"data.shuffle_rows={together}")
    assert len(found.feeds[0].shards) > 3
    rows = walked(found, 280, writes=True)
    journal = Journal(found.journal).read()
    turns = sorted(turn for turn in journal.known if turn[1] < 3)
    count = sum(sum(journal.known[turn]) for turn in turns)
    rest = journal.rest(turns[-1], len(journal.known[turns[-1]]) - 1)
    assert 240 < count < 280
    assert {len(flat([row])) for row in rows} == {LENGTH}
    assert len(flat([rest])) < LENGTH
    ids = tiny_tokenizer()([text_of(i) for i in range(50)])["input_ids"]
    assert Counter([*flat(rows[:count]), *flat([rest])]) == Counter(3 * [*chain(*ids), *[END] * 50])
    one, other = ([str(tiny_tokenizer().decode(flat([row]))) for row in part] for part in (rows[:4], walked(opened(lab, "seed=3"), 4)))
    assert one != other


def test_a_batch_is_not_one_long_text(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "PART_BYTES", 32 << 20)
    (lab.folder / "train.txt").write_text("".join(f"{letter * 400}\n" for letter in "abcdefg"), encoding="utf-8")
    rows = walked(opened(lab), 8)
    assert len({row[0][0] for row in rows}) > 3


@pytest.mark.parametrize("together", [1, 7])
@pytest.mark.parametrize("journal", [True, False], ids=["journal", "no journal"])
def test_from_any_point_on_it_is_the_same_stream(lab: Lab, together: int, journal: bool) -> None:
    found = opened(lab, f"data.shuffle_rows={together}")
    whole = walked(found, 160, writes=journal)
    assert found.journal.is_file() == journal
    for start in (*range(0, 60, 3), 61, 120, 159):
        assert walked(found, 160 - start, start=start) == whole[start:], start


def test_what_the_journal_knows_is_not_made_again(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    found = opened(lab)
    whole = walked(found, 150, writes=True)
    made: list[int] = []
    before = found.maker.samples
    monkeypatch.setattr(found.maker, "samples", lambda rows, *more: made.append(len(rows)) or before(rows, *more))
    assert walked(found, 1, start=140) == whole[140:141]
    assert sum(made) <= 7, "the block at hand alone"


def test_a_journal_that_a_kill_has_torn_is_gone_on_with(lab: Lab) -> None:
    found = opened(lab)
    whole = walked(found, 150)
    walked(found, 20, writes=True)
    lines = found.journal.read_bytes()
    for end in (len(lines) - 1, len(lines) - 30, 5):
        found.journal.write_bytes(lines[:end])
        assert walked(found, 40, start=10, writes=True) == whole[10:50]
        assert walked(found, 100, start=50) == whole[50:], end
        assert not Journal(found.journal).read().torn


def test_small_files_an_empty_one_and_one_that_is_held_out_are_passed_over(lab: Lab) -> None:
    """A row of texts goes on from file to file; what no block came of is no error when it is passed over."""
    folder = lab.folder / "many"
    folder.mkdir()
    for index in range(30):
        (folder / f"{index:02d}.txt").write_text("" if index == 11 else f"{text_of(index)}\n", encoding="utf-8")
    given = (f"data.path={folder}", "data.eval_path=null", "data.eval_rows=2", "data.shuffle_rows=1")
    found = opened(lab, *given)
    assert len(found.feeds[0].shards) == 30
    whole = walked(found, 120, writes=True)
    texts = told(flat(whole))
    assert set(texts[:27]) == {text_of(i) for i in range(2, 30) if i != 11}
    for start in (1, 40, 90, 119):
        assert walked(found, 120 - start, start=start) == whole[start:], start


def test_less_than_a_row_is_repeated_until_it_is_one(lab: Lab) -> None:
    (lab.folder / "train.txt").write_text("abc\n", encoding="utf-8")
    (row,) = walked(opened(lab), 1)
    assert tiny_tokenizer().decode(flat([row])) == "abc<|im_end|>" * 8
    nothing = opened(lab)
    nothing.maker.blocks.data.transforms[:] = [{"filter": "len(text) > 9"}]  # type: ignore[attr-defined]
    with pytest.raises(TuneError, match="no row of the stream can be trained"):
        walked(nothing, 1)


def test_sources_come_in_their_shares_of_rows(lab: Lab) -> None:
    (lab.folder / "other.txt").write_text("other\n" * 9, encoding="utf-8")
    path = lab.folder / "recipes" / "small.yaml"
    mix = "mix: {one: {path: FOLDER/train.txt, weight: 3}, two: {path: FOLDER/other.txt, weight: 1}}"
    path.write_text(path.read_text().replace(f"path: {lab.folder}/train.txt", mix.replace("FOLDER", str(lab.folder))))
    found = opened(lab)
    whole = walked(found, 80, writes=True)
    texts = [str(tiny_tokenizer().decode(flat([row]))) for row in whole]
    assert sum("other" in text for text in texts) == 20
    assert not any("other" in text and "cat" in text for text in texts), "a row is of one source"
    assert walked(found, 30, start=50) == whole[50:]


def test_processes_read_different_rows_and_none_twice(lab: Lab) -> None:
    found = opened(lab, micro=2)
    alone = list(islice(iter(found.at(4)), 12))
    ranks = [list(islice(iter(found.at(4, rank=rank, world=2)), 6)) for rank in (0, 1)]
    assert [batch for turn in zip(*ranks, strict=True) for batch in turn] == alone
    seen = [[json.dumps(row) for batch in batches for row in batch] for batches in ranks]
    assert not set(seen[0]) & set(seen[1])
    assert len({*chain(*seen)}) == 24


def test_a_worker_makes_the_rows_of_this_process(lab: Lab) -> None:
    """A maker goes to workers as bytes, with its steps; loading is what makes a person's own steps known there."""
    found = opened(lab, 'data.transforms=[{filter: "len(text) > 20"}]')
    expected = walked(found, 30)
    found.maker = pickle.loads(pickle.dumps(found.maker))
    assert walked(found, 30) == expected


def test_the_first_rows_are_audited_and_a_length_is_asked_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tuner.data.heads.SAMPLE_ROWS", 10)
    run = lab.run(*ON)
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert any("its first 10 rows are audited" in line for line in lab.told)
    assert json.loads((run.stage_folder("prepare") / "audit.json").read_text())["rows"] == 10
    with pytest.raises(TuneError, match=r"`trainer\.max_steps` is not set"):
        lab.plan("data.streaming=true")


@pytest.mark.parametrize("learned", [("adapter=full",), ("adapter=lora", "model.init=pretrained", "adapter.lora_dropout=0.1")])
def test_a_resumed_training_is_an_uninterrupted_one(lab: Lab, learned: tuple[str, ...]) -> None:
    """Bitwise, with the journal of the first training and without."""
    given = (*ON, *learned, "trainer.save_steps=3", "trainer.save_total_limit=5", "eval=none")
    name = "model.safetensors" if "adapter=full" in learned else "adapter_model.safetensors"
    run = lab.run(*given)
    train(run)
    weights, losses = weights_of(run.folder, name), losses_of(run.folder)
    assert len(losses) == 8
    for journal in (True, False):
        for checkpoint in all_checkpoints(run.folder / "checkpoints"):
            if checkpoint.name != "checkpoint-3":
                (checkpoint / "seal.json").unlink(missing_ok=True)
        if not journal:
            (run.folder / "stream.jsonl").unlink()
        train(lab.run(*given))
        assert any("going on from step 3 of 8" in line for line in lab.told)
        lab.told.clear()
        assert losses_of(run.folder) == losses
        assert all((tensor == weights[key]).all() for key, tensor in weights_of(run.folder, name).items())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torchrun leaves its log files open
def test_two_processes_train_on_a_stream_as_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shard_module, "PART_BYTES", 32 << 20)  # as those that are started have it
    given = ("data.streaming=true", "trainer.max_steps=10", "data.shuffle_rows=7", "trainer.eval_steps=5")
    there, here = by_two_and_by_one(lab, *given, keys=("loss", "grad_norm", "tokens", "eval_loss"))
    assert len(here) == 10 * 3 + 2
    assert there == pytest.approx(here, rel=1e-5)
