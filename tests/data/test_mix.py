"""Mixes of sources: how much of each is used, by weights, numbers and temperature; which rows are held out; what is told of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.lab import Lab, make_lab
from tuner.data.mix import Part, drawn
from tuner.data.splits import held_out, split
from tuner.errors import TuneError
from tuner.proportions import sizes
from tuner.runs import read_json
from tuner.schema.data import Data, MixSource, sources
from tuner.tasks import sft

MIX = """\
model: {{id: MODEL, dtype: float32}}
data:
  eval_fraction: 0.2
  mix:
{sources}
trainer: {{batch_size: 4, precision: fp32, max_steps: 2}}
eval: {{generate: false}}
hardware: {{device: cpu}}
"""
TWO = "    one: {path: FOLDER/one.jsonl, %s}\n    two: {path: FOLDER/two.csv, %s}\n"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = make_lab(tmp_path)
    lines = [{"messages": [{"role": "user", "content": f"q{i}"}, {"role": "assistant", "content": f"<b>one</b> {i}"}]} for i in range(100)]
    (made.folder / "one.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (made.folder / "two.csv").write_text("ask,reply\n" + "".join(f"p{i},two {i}\n" for i in range(40)))
    return made


def recipe(lab: Lab, sources: str) -> None:
    path = lab.folder / "recipes" / "small.yaml"
    model = path.read_text().split("id: ")[1].split(",")[0]
    path.write_text(MIX.format(sources=sources).replace("MODEL", model).replace("FOLDER", str(lab.folder)))


def part(weight: float | None = None, rows: int | None = None) -> Part:
    return Part(name="x", data=Data(), files=[], weight=weight, rows=rows)


def test_weights_use_as_many_rows_as_they_can_without_using_one_twice() -> None:
    assert sizes([part(3), part(1)], [100, 100], Data()) == [100, 33]
    assert sizes([part(), part()], [7, 5], Data()) == [7, 5], "nothing said: all of all"
    assert sizes([part(rows=3), part()], [7, 5], Data()) == [3, 5]
    assert sizes([part(3), part(1)], [10, 10], Data(mix_rows=40)) == [30, 10]


def test_a_temperature_draws_large_sources_less() -> None:
    found = [part(), part()]
    assert sizes(found, [900, 100], Data(mix_rows=1000, mix_temperature=1.0)) == [900, 100]
    assert sizes(found, [900, 100], Data(mix_rows=1000, mix_temperature=2.0)) == [750, 250]
    assert sizes(found, [900, 100], Data(mix_rows=1000, mix_temperature=1e6)) == [500, 500]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.integers(1, 1000)), min_size=1, max_size=5), st.integers(1, 5000))
def test_a_mix_has_the_rows_asked_for_in_the_shares_asked_for(sources: list[tuple[float, int]], total: int) -> None:
    found, counts = [part(weight) for weight, _ in sources], [count for _, count in sources]
    got = sizes(found, counts, Data(mix_rows=total))
    weights = sum(weight for weight, _ in sources)
    assert sum(got) == total
    assert all(abs(size - total * weight / weights) <= 1 for size, (weight, _) in zip(got, sources, strict=True))
    whole = sizes(found, counts, Data())
    assert all(size <= count for size, count in zip(whole, counts, strict=True)), "no row is used twice"


@given(st.integers(1, 50), st.integers(0, 200), st.randoms())
def test_rows_are_used_as_evenly_as_can_be(count: int, wanted: int, picked: object) -> None:
    got = drawn(count, wanted, picked)  # type: ignore[arg-type]
    times = [got.count(i) for i in range(count)]
    assert len(got) == wanted
    assert max(times) - min(times) <= 1


def test_sources_of_different_shapes_become_one_set(lab: Lab) -> None:
    two = "weight: 1, columns: {prompt: ask, completion: reply}, system: Be brief., transforms: [{replace: {pattern: two, by: TWO}}]"
    recipe(lab, TWO % ("weight: 2, transforms: [strip_html]", two))
    run = lab.run()
    train, apart = split(run)
    assert [len(train.of_part(i)) for i in (0, 1)] == [64, 32], "2 : 1 of the 80 and 32 rows that are left to train"
    assert [len(apart.of_part(i)) for i in (0, 1)] == [20, 8], "a fifth of each"
    assert train.place(0).startswith(str(lab.folder / "one.jsonl:"))
    assert train.place(64).startswith(str(lab.folder / "two.csv, row "))
    sft.prepare(run, train, lab.folder / "prepared")
    found = read_json(lab.folder / "prepared" / "data.json")
    assert [(s["name"], s["shape"], s["rows"]) for s in found["sources"]] == [("one", "messages", 64), ("two", "prompt_completion", 32)]
    assert sum(s["token_share"] for s in found["sources"]) == pytest.approx(1, abs=1e-3)
    texts = ["".join(s["text"] for s in sft.show(run, train, i)["segments"]) for i in (0, 70)]
    assert "<b>" not in texts[0]
    assert "one " in texts[0]
    assert "Be brief." in texts[1]
    assert "TWO" in texts[1]
    assert any(line.startswith("one: 64 rows of 80, 66.7% of the mix") for line in lab.told), lab.told


def test_the_same_seed_gives_the_same_mix_and_held_out_rows_are_never_trained(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}") + "  mix_rows: 300\n")
    first, again, other = (lab.run(f"seed={seed}") for seed in (1, 1, 2))
    rows = [list(map(str, split(run)[0])) for run in (first, again, other)]
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert len(rows[0]) == 300
    assert not set(rows[0]) & set(map(str, held_out(first)))


def test_a_number_of_rows_is_held_out(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}"))
    _, apart = split(lab.run("data.eval_rows=14"))
    assert [len(apart.of_part(i)) for i in (0, 1)] == [10, 4]
    with pytest.raises(TuneError, match="and there are 140 rows") as caught:
        split(lab.run("data.eval_rows=500"))
    assert caught.value.problems[0].where == "data.eval_rows"
    for number in (1, 2, 3, 13):
        assert len(held_out(lab.run(f"data.eval_rows={number}"))) == number


def test_held_out_files_beside_a_mix(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}"))
    run = lab.run(f"data.eval_path={lab.folder}/eval.jsonl")
    train, apart = split(run)
    assert (len(train), len(apart)) == (80, 8)
    sft.check(run, apart)


def test_what_of_a_source_enters_which_key(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}"))
    base = lab.plan()

    def changed(*overrides: str) -> set[str]:
        plan = lab.plan(*overrides)
        return {s.name for s in plan.stages if s.key != base.stage(s.name).key}

    everything = {"prepare", "baseline", "train", "evaluate", "publish"}
    assert changed("data.mix.one.weight=2") == everything - {"baseline"}, "rows are held out before any is chosen"
    assert changed("data.mix.one.shape=messages") == everything
    assert changed("data.mix_rows=50") == changed("data.mix_temperature=2") == everything - {"baseline"}
    (lab.folder / "copy.jsonl").write_bytes((lab.folder / "one.jsonl").read_bytes())
    assert not changed(f"data.mix.one.path={lab.folder}/copy.jsonl"), "the same content"
    with (lab.folder / "one.jsonl").open("a") as stream:
        stream.write(json.dumps({"messages": []}) + "\n")
    assert changed() == everything


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("data.mix.one.wieght=2", "unknown key `data.mix.one.wieght`"),
        ("data.mix.one.weight=0", "must be more than 0"),
        ("data.mix.one.id=org/name", "both `data.mix.one.path` and `data.mix.one.id` are set"),
        ("data.mix.three.weight=1", "the source `three` names no rows"),
        ("data.mix.one.rows=5", "contradicts weights"),
        ("data.path=x.jsonl", "stands beside `data.mix`"),
        ("data.mix.one.transforms=[trimm]", "unknown transform `trimm`"),
        ("data.mix.one.path=nowhere.jsonl", "no such file: nowhere.jsonl"),
        ("data.mix=[a]", "takes sections by name"),
        ("data.format=csv", "`data.format` stands beside `data.mix`"),
        ("data.streaming=true trainer.max_steps=2 data.mix_temperature=2 data.eval_rows=3", "`data.mix_temperature` needs all rows"),
        ("data.streaming=true data.mix.one.weight=null data.mix.two.weight=null data.eval_rows=3", "mixed by weights, and there are none"),
    ],
)
def test_what_is_wrong_with_a_mix_is_told(lab: Lab, change: str, what: str) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}"))
    with pytest.raises(TuneError) as caught:
        lab.plan(*change.split())
    assert caught.value.code == 2
    assert any(what in problem.what for problem in caught.value.problems), caught.value.problems


def test_a_source_takes_from_beside_the_mix_what_it_does_not_say() -> None:
    data = Data(system="all", limit=9, mix={"one": MixSource(path="a"), "two": MixSource(path="b", system="", transforms=["trim"])})
    found = sources(data)
    assert [(found[name].system, found[name].limit) for name in ("one", "two")] == [("all", 9), ("", 9)]
    assert found["two"].transforms == ["trim"]
    assert replace(found["one"], path=None, mix=data.mix) == data


def test_a_misspelt_source_is_guessed(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 1", "weight: 1, columns: {prompt: ask, completion: reply}"))
    with pytest.raises(TuneError) as caught:
        lab.plan("data.mix.onne.weight=3")
    (problem,) = caught.value.problems
    assert problem.where == "data.mix.onne.weight=3"
    assert problem.fix.startswith("did you mean `one`?")


def test_small_temperatures_do_not_overflow() -> None:
    assert sizes([part(), part()], [900, 100], Data(mix_rows=10, mix_temperature=0.001)) == [10, 0]


@pytest.mark.parametrize(("how", "number"), [("", 14), (",eval_stratify=label", 14)])
def test_so_many_rows_are_held_out_as_were_asked_for(tmp_path: Path, how: str, number: int) -> None:
    made = make_lab(tmp_path)
    rows = [{"prompt": f"q{i}", "completion": "a", "label": "common" if i < 100 else f"rare {i % 10}"} for i in range(140)]
    (made.folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = [f"data.{part}" for part in how.strip(",").split(",") if part]
    run = made.run("data.eval_path=null", f"data.eval_rows={number}", *extra)
    assert (len(split(run)[0]), len(held_out(run))) == (140 - number, number)


def test_a_source_is_taken_away_on_the_command_line(lab: Lab) -> None:
    recipe(lab, TWO % ("weight: 2", "weight: 1"))
    plan = lab.plan("data.mix.two=null")
    assert list(plan.load_recipe().data.mix) == ["one"]
    with pytest.raises(TuneError, match="there is no source `tow` to take away"):
        lab.plan("data.mix.tow=null")


def test_a_mix_of_a_wrong_type_is_one_error(lab: Lab) -> None:
    recipe(lab, "    - one.jsonl\n")
    with pytest.raises(TuneError, match="takes sections by name") as caught:
        lab.plan()
    assert len(caught.value.problems) == 1


@pytest.mark.parametrize(
    ("key", "override"), [("data.mix_rows", "data.mix_rows=1000000000000"), ("data.mix.one.rows", "data.mix.one.rows=999999999")]
)
def test_a_mix_that_would_fill_the_memory_is_refused(lab: Lab, key: str, override: str) -> None:
    recipe(lab, TWO % (("weight: 2", "weight: 1") if "mix_rows" in key else ("rows: 2", "rows: 1")))
    with pytest.raises(TuneError, match="each would be used") as caught:
        split(lab.run(override))
    assert (caught.value.code, caught.value.problems[0].where) == (2, key)


def test_the_gate_names_the_first_row_that_it_is_about(lab: Lab) -> None:
    """The first that was read: what was skipped before it is told of already."""
    recipe(lab, "    one: {path: FOLDER/one.jsonl}\n    two: {path: FOLDER/two.csv, columns: {prompt: ask, completion: reply}}\n")
    good = (lab.folder / "one.jsonl").read_text().splitlines()
    for broken, line in ((0, 1), (2, 3)):
        rows = [json.dumps({"messages": [{"role": "nobody", "content": "x"}]})] * broken
        (lab.folder / "one.jsonl").write_text("\n".join([*rows, *good]) + "\n")
        run = lab.run("task.max_length=8", "data.eval_fraction=0", "eval=none", "data.on_error=skip", f"name=r{broken}")
        with pytest.raises(TuneError) as caught:
            sft.prepare(run, split(run)[0], lab.folder / f"prepared{broken}")
        assert caught.value.code == 3
        assert all(problem.what.endswith(f"one.jsonl:{line}") for problem in caught.value.problems)
