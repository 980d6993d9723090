"""From the command line to the last file: one run end to end, what a change does again and what it does not, and bad surroundings."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab import Lab, environ, log_of, make_lab, tiny_model, weights_of
from tests.tiny import make_model
from tuner import cli
from tuner.data.splits import split
from tuner.errors import TuneError

NEEDED = (
    *("plan.json", "lock.json", "recipe.yaml", "data.json", "audit.json", "metrics.json", "train_log.jsonl", "report.html", "README.md"),
    *("adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("generation_config.json", "published/README.md", "published/adapter_model.safetensors"),
)


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def run(lab: Lab, *args: str) -> int:
    return tune(lab, "recipe=small", "launcher=inline", *args)


def stages_run(printed: str) -> list[str]:
    return [line.split()[0] for line in printed.splitlines() if line.endswith(" …")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Path, str]:
    """(project, run folder, output) of `tune recipe=small` as a person runs it, in processes of its own."""
    lab = make_lab(tmp_path_factory.mktemp("project"))
    done = lab.tune("recipe=small")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == "", "libraries have nothing to say"
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    return lab, folder, done.stdout


@pytest.fixture
def project(finished: tuple[Lab, Path, str], tmp_path: Path) -> Lab:
    """A copy of the finished project in which a test may change things. Keys do not depend on the place."""
    shutil.copytree(finished[0].folder, tmp_path / "project")
    for recipe in (tmp_path / "project" / "recipes").iterdir():
        recipe.write_text(recipe.read_text().replace(str(finished[0].folder), str(tmp_path / "project")))
    return Lab(tmp_path / "project")


@pytest.fixture
def empty(tmp_path: Path) -> Lab:
    """A project in which nothing has run."""
    return make_lab(tmp_path / "empty")


def test_a_run_leaves_every_file_of_the_contract(finished: tuple[Lab, Path, str]) -> None:
    _, folder, printed = finished
    assert [n for n in NEEDED if not (folder / n).is_file()] == []
    assert stages_run(printed) == ["prepare", "baseline", "train", "evaluate", "publish"]
    markers = [json.loads(p.read_text()) for p in sorted((folder / "stages").iterdir())]
    assert [m["stage"] for m in markers] == ["evaluate", "publish", "train"]
    assert all({"key", "seconds", "finished"} <= set(m) for m in markers)
    assert not [p for p in folder.rglob("*") if p.name.endswith((".tmp", ".saving", ".partial"))]
    assert "Loading weights" not in printed


def test_its_metrics_are_about_both_models(finished: tuple[Lab, Path, str]) -> None:
    _, folder, printed = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    names = {"valid_json", "exact_match", "field/letter", "loss", "perplexity"}
    assert set(metrics["base"]) == set(metrics["tuned"]) == set(metrics["intervals"]) == names
    assert metrics["rows"] == 8
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"] - 0.1
    assert "held-out rows: 8" in printed
    assert f"{metrics['tuned']['loss']:.3f}" in printed
    (rows,) = (folder / "eval").glob("*/rows.jsonl")
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(8))
    assert lines[0]["prompt"] == [{"role": "user", "content": "m1000?"}]
    assert lines[0]["reference"] == '{"letter": "m"}'
    assert set(lines[0]["base_scores"]) == set(lines[0]["tuned_scores"]) == names - {"loss", "perplexity"}


def test_its_data_and_audit(finished: tuple[Lab, Path, str]) -> None:
    _, folder, _ = finished
    data, audit = (json.loads((folder / f"{n}.json").read_text()) for n in ("data", "audit"))
    assert (data["train"]["rows"], data["eval"]["rows"], data["source"]["shape"]) == (40, 8, "messages")
    assert audit["rows"] == 40
    assert audit["end_of_turn_trained"] is True
    assert "".join(s["text"] for s in audit["sample"] if s["trained"]) == '{"letter": "a"}<|im_end|>'
    assert [e["step"] for e in log_of(folder)] == [1, 2, 3, 4, 5]


def test_the_recipe_it_leaves_runs_again_to_the_same_keys(finished: tuple[Lab, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    lab, folder, _ = finished
    assert tune(lab, f"recipe={folder / 'recipe.yaml'}") == 0
    assert capsys.readouterr().out.startswith("nothing to do: small is finished in outputs/small/")


def test_the_same_command_again_does_nothing_quickly(finished: tuple[Lab, Path, str]) -> None:
    lab, folder, _ = finished
    lab.tune("recipe=small")  # other tests may have measured this run in another way
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    began = time.perf_counter()
    done = lab.tune("recipe=small")
    assert time.perf_counter() - began < 6, "a tenth of it would do; this machine may be busy"
    assert done.returncode == 0
    assert f"nothing to do: small is finished in outputs/small/{folder.name}" in done.stdout
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        (["hub.license=mit"], ["publish"]),
        (["eval.bootstrap_samples=200"], ["evaluate", "publish"]),
        (["eval.max_new_tokens=5"], ["baseline", "evaluate", "publish"]),
        (["eval.limit=3", "eval.generate=false"], ["baseline", "evaluate", "publish"]),
        (["trainer.learning_rate=3e-3"], ["train", "evaluate", "publish"]),
        (["seed=7"], ["train", "evaluate", "publish"]),
        (["task.max_length=200"], ["prepare", "baseline", "train", "evaluate", "publish"]),
        (["hub=none"], []),
        (["eval=none", "hub=none"], []),
        (["hardware.micro_batch_size=2", "trainer.save_steps=1", "trainer.logging_steps=5"], []),
    ],
)
def test_a_change_does_again_what_it_touches_and_no_more(
    project: Lab, capsys: pytest.CaptureFixture[str], changes: list[str], again: list[str]
) -> None:
    (folder,) = (project.folder / "outputs" / "small").iterdir()
    weights = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    assert run(project, *changes) == 0
    printed = capsys.readouterr()
    assert stages_run(printed.out) == again, printed
    assert ("nothing to do" in printed.out) == (not again)
    if "train" not in again:
        assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == weights, "not trained again"
        assert list((project.folder / "outputs" / "small").iterdir()) == [folder]
    else:
        assert len(list((project.folder / "outputs" / "small").iterdir())) == 2


def test_a_changed_row_trains_again_and_a_touched_file_does_not(project: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    rows = project.folder / "train.jsonl"
    rows.touch()
    assert run(project) == 0
    assert "nothing to do" in capsys.readouterr().out
    rows.write_text(rows.read_text().replace("a0?", "a1?"))
    assert run(project) == 0
    assert stages_run(capsys.readouterr().out) == ["prepare", "train", "evaluate", "publish"], "the base's answers are still good"


def test_metrics_at_the_root_are_those_of_the_last_command(project: Lab) -> None:
    (folder,) = (project.folder / "outputs" / "small").iterdir()
    assert run(project, "eval.limit=3", "hub=none") == 0
    assert json.loads((folder / "metrics.json").read_text())["rows"] == 3
    assert len(list((folder / "eval").iterdir())) == 2


def test_a_finished_run_shows_what_was_asked_for_last(project: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (project.folder / "outputs" / "small").iterdir()
    assert run(project, "eval.examples=2") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert "2 of 8 held-out rows" in (folder / "report.html").read_text()
    assert run(project, "eval.limit=3", "hub=none") == 0
    assert run(project) == 0
    assert json.loads((folder / "metrics.json").read_text())["rows"] == 8, "the first evaluation is still there"
    assert "8 of 8 held-out rows" in (folder / "report.html").read_text()


def test_verbs_find_a_run_in_another_output_folder(project: Lab) -> None:
    moved = project.folder / "elsewhere"
    (project.folder / "outputs").rename(moved)
    done = project.tune("eval", "small", f"output_dir={moved}", "--json")
    assert (done.returncode, json.loads(done.stdout)["rows"]) == (0, 8), done.stderr
    done = project.tune("try", "small", "a1?", f"output_dir={moved}", "max_new_tokens=2", "--json")
    assert done.returncode == 0, done.stderr
    done = project.tune("try", "small", "a1?", "maximum=2", f"output_dir={moved}")
    assert (done.returncode, "unknown setting `maximum`" in done.stderr) == (2, True)


def write_grouped(lab: Lab) -> None:
    talk = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "a"}]
    rows = [{"messages": talk, "customer": f"c{i % 20}", "kind": "rare" if i % 10 == 0 else "common"} for i in range(200)]
    (lab.folder / "train.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")


SHARE = ("data.eval_path=null", "data.eval_fraction=0.2")


def test_a_group_is_never_on_both_sides(empty: Lab) -> None:
    write_grouped(empty)
    train, held_out = split(empty.run(*SHARE, "data.eval_group=customer"))
    sides = [{row["customer"] for row in rows} for rows in (train, held_out)]
    assert sides[0] | sides[1] == {f"c{i}" for i in range(20)}
    assert not sides[0] & sides[1]
    assert 1 <= len(sides[1]) <= 9
    assert [{r["customer"] for r in rows} for rows in split(empty.run(*SHARE, "data.eval_group=customer"))] == sides, "by the seed alone"
    assert list(split(empty.run(*SHARE, "data.eval_group=customer", "seed=7"))[1]) != list(held_out)


def test_every_value_gives_its_share(empty: Lab) -> None:
    write_grouped(empty)
    _, held_out = split(empty.run(*SHARE, "data.eval_stratify=kind"))
    assert [row["kind"] for row in held_out].count("rare") == 4
    assert len(held_out) == 40


def test_a_column_to_split_by_that_is_not_there_is_told(empty: Lab) -> None:
    write_grouped(empty)
    with pytest.raises(TuneError, match="there is no column `client`") as caught:
        split(empty.run(*SHARE, "data.eval_group=client"))
    assert (caught.value.code, caught.value.problems[0].where.endswith("train.jsonl:1")) == (2, True)


def test_line_separators_in_a_text_are_no_line_ends(empty: Lab) -> None:
    talk = {"messages": [{"role": "user", "content": "a\u2028b\u0085c?"}, {"role": "assistant", "content": "a\u2028b"}]}
    (empty.folder / "eval.jsonl").write_text((json.dumps(talk, ensure_ascii=False) + "\n") * 3, encoding="utf-8")
    assert run(empty, "hub=none") == 0
    assert run(empty, "hub=none", "eval.bootstrap_samples=200") == 0, "read again"


def test_lost_weights_are_trained_again(project: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (folder,) = (project.folder / "outputs" / "small").iterdir()
    (folder / "adapter_model.safetensors").unlink()
    assert run(project) == 0
    assert "train" in stages_run(capsys.readouterr().out)
    assert (folder / "adapter_model.safetensors").is_file()


def test_a_moved_run_answers_with_its_own_weights(project: Lab) -> None:
    (folder,) = (project.folder / "outputs" / "small").iterdir()
    moved = project.folder / "mo ved"
    folder.rename(moved)
    assert json.loads(project.tune("try", str(moved), "a1?", "max_new_tokens=2", "--json").stdout).keys() == {"base", "tuned"}
    (moved / "adapter_model.safetensors").unlink()
    told = project.tune("try", str(moved), "a1?", "max_new_tokens=2", "--json")
    assert (told.returncode, "has not finished training" in told.stderr) == (2, True)


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("adapter.target_modules=[q_prj]", "the model has no module `q_prj`"),
        ("adapter.modules_to_save=[nope]", "the model has no module `nope`"),
        ("trainer.padding_free=always", "cannot be had"),
        ("task.packing=true", "cannot be had"),
    ],
)
def test_what_cannot_be_trained_is_known_before_anything_is_measured(
    empty: Lab, capsys: pytest.CaptureFixture[str], override: str, what: str
) -> None:
    more = ["model.attn_implementation=eager"] if "=always" in override or "packing" in override else []
    assert run(empty, override, *more) == 2
    printed = capsys.readouterr()
    assert what in printed.err
    assert stages_run(printed.out) == []


def test_no_evaluation(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(empty, "eval=none", "hub=none") == 0
    assert stages_run(capsys.readouterr().out) == ["prepare", "train"]
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    assert (folder / "adapter_model.safetensors").is_file()
    assert (folder / "report.html").is_file()
    assert (folder / "README.md").is_file()
    assert not (folder / "metrics.json").exists()
    assert not (folder / "published").exists()


def test_a_share_of_the_rows_is_held_out_and_not_trained(empty: Lab) -> None:
    held = ["data.eval_path=null", "data.eval_fraction=0.2", "eval.generate=false", "hub=none"]
    assert run(empty, *held) == 0
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    data = json.loads((folder / "data.json").read_text())
    assert (data["train"]["rows"], data["eval"]["rows"]) == (32, 8)
    (rows,) = (folder / "eval").glob("*/rows.jsonl")
    measured = {json.loads(line)["prompt"][-1]["content"] for line in rows.read_text().splitlines()}
    assert len(measured) == 8
    import numpy as np

    from tests.lab import tiny_tokenizer

    (prepared,) = (empty.folder / "outputs" / ".cache").glob("prepare-*")
    text = tiny_tokenizer().decode(np.load(prepared / "ids.npy").tolist())
    every = {json.loads(line)["messages"][0]["content"] for line in (empty.folder / "train.jsonl").read_text().splitlines()}
    trained = {content for content in every if f"user\n{content}<|im_end|>" in text}
    assert trained == every - measured
    assert run(empty, *held, "seed=3") == 0
    (other,) = {*(empty.folder / "outputs" / "small").iterdir()} - {folder}
    (rows,) = (other / "eval").glob("*/rows.jsonl")
    again = {json.loads(line)["prompt"][-1]["content"] for line in rows.read_text().splitlines()}
    assert again != measured, "another seed holds out others"


def test_full_fine_tuning_end_to_end(empty: Lab) -> None:
    assert run(empty, "adapter=full", "eval.generate=false") == 0
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    assert (folder / "published" / "model.safetensors").is_file()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["tuned"]["loss"] < metrics["base"]["loss"] - 0.5
    assert "model.embed_tokens.weight" in weights_of(folder, "model.safetensors")


def test_held_out_rows_that_are_all_cut_stop_before_training(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    long = [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "ok"}]
    (empty.folder / "eval.jsonl").write_text(json.dumps({"messages": long}) + "\n")
    assert run(empty, "task.max_length=100") == 3
    printed = capsys.readouterr()
    assert_one_message(printed.err, "no token of 1 held-out rows would be measured", "now 100 tokens")
    assert stages_run(printed.out) == []
    short = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "ok"}]
    (empty.folder / "eval.jsonl").write_text("".join(json.dumps({"messages": m}) + "\n" for m in (long, short, long)))
    assert run(empty, "task.max_length=100", "hub=none") == 0
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    found = json.loads((folder / "metrics.json").read_text(), parse_constant=pytest.fail)
    assert found["rows"] == 3
    assert found["tuned"]["loss"] > 0


# tune check


def check(lab: Lab, *args: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The worker's part of `tune check --json`, in this process."""
    from tuner import worker

    code = worker.main([str(lab.write_plan(*args)), "--check", "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_check_is_content_and_trains_nothing(empty: Lab) -> None:
    done = empty.tune("check", "recipe=small")
    assert done.returncode == 0, done.stderr
    assert "40 rows to train, 8 held out" in done.stdout
    assert (
        "of the tokens are trained; 0 rows have none and are left out; no row is too long; the end of turn <|im_end|> is trained"
        in done.stdout
    )
    assert '[[{"letter": "a"}<|im_end|>]]' in done.stdout, "what is trained, in brackets"
    assert not list((empty.folder / "outputs").rglob("*.safetensors"))


def test_check_says_what_gates(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(empty, "task.max_length=10", capsys=capsys)
    assert code == 3
    (data,) = [f for f in found["findings"] if f["name"] == "data"]
    assert data["state"] == "fail"
    assert "no token of 40 rows would be trained" in data["text"]
    assert {f["name"] for f in found["findings"]} == {"data", "training", "memory", "disk", "hub"}, "the rest is looked at all the same"


def test_check_of_rows_that_do_not_fit(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (empty.folder / "train.jsonl").write_text('{"text_in": "a", "text_out": "b"}\n')
    code, found = check(empty, capsys=capsys)
    assert code == 2
    assert "['text_in', 'text_out']" in found["findings"][0]["text"]


def test_check_of_a_good_recipe_as_json(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = check(empty, capsys=capsys)
    assert code == 0
    assert [f["name"] for f in found["findings"]] == ["data", "mask", "held out", "training", "memory", "disk", "hub"]
    assert {f["state"] for f in found["findings"]} == {"ok"}
    assert found["audit"]["rows"] == 40


# tune try


def test_try_sets_base_against_tuned(finished: tuple[Lab, Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    lab, folder, _ = finished
    assert tune(lab, "try", "small", "m1000?", "max_new_tokens=20", "--json") == 0
    found = json.loads(capfd.readouterr().out)
    (rows,) = (folder / "eval").glob("*/rows.jsonl")
    first = json.loads(rows.read_text().splitlines()[0])
    assert {name: text.strip() for name, text in found.items()} == {"base": first["base"], "tuned": first["tuned"]}, "as when measured"


def test_try_a_model_before_tuning(finished: tuple[Lab, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    lab, _, _ = finished
    assert tune(lab, "try", str(tiny_model()), "hi", "max_new_tokens=3", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)) == [str(tiny_model())]


def test_try_what_is_not_there(finished: tuple[Lab, Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    lab, _, _ = finished
    assert tune(lab, "try", "smal", "hi") == 2
    assert "did you mean `small`?" in capsys.readouterr().err


def test_try_a_folder_of_runs_is_its_newest_run(finished: tuple[Lab, Path, str], capfd: pytest.CaptureFixture[str]) -> None:
    lab, _, _ = finished
    assert tune(lab, "try", "outputs/small", "m1000?", "max_new_tokens=2", "--json") == 0
    assert list(json.loads(capfd.readouterr().out)) == ["base", "tuned"]
    assert tune(lab, "try", "outputs/.cache", "hi") == 2
    assert_one_message(capfd.readouterr().err, "there is no model and no run in outputs/.cache")


# tune … --json


def test_a_run_for_a_program_is_one_object_whatever_starts_the_worker(empty: Lab) -> None:
    first = empty.tune("recipe=small", "--json", "eval.generate=false")
    assert first.returncode == 0, first.stderr
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    found = json.loads(first.stdout)
    assert (found["name"], found["folder"]) == ("small", str(folder))
    assert found["metrics"] == json.loads((folder / "metrics.json").read_text())
    assert list(found["stages"]) == ["prepare", "baseline", "train", "evaluate", "publish"]
    assert all(s["done"] and (folder.name == s["key"]) == (name == "train") for name, s in found["stages"].items())
    assert stages_run(first.stderr) == list(found["stages"])
    again = empty.tune("recipe=small", "--json", "eval.generate=false")
    assert (json.loads(again.stdout), again.stderr) == (found, "")
    inline = empty.tune("recipe=small", "launcher=inline", "--json", "eval=none", "hub=none", "seed=3")
    assert inline.returncode == 0, inline.stderr
    assert (json.loads(inline.stdout)["metrics"], stages_run(inline.stderr)) == (None, ["train"])


def test_a_run_that_fails_prints_nothing_for_a_program(empty: Lab) -> None:
    (empty.folder / "train.jsonl").write_text('{"text_in": "a", "text_out": "b"}\n')
    for launcher in ("local", "inline"):
        failed = empty.tune("recipe=small", "--json", f"launcher={launcher}")
        assert (failed.returncode, failed.stdout) == (2, "")
        assert_one_message(failed.stderr, "no known shape")


# Bad surroundings


def assert_one_message(printed: str, *parts: str) -> None:
    assert printed.count("error: ") == 1, printed
    assert "Traceback" not in printed
    assert "fix: " in printed
    for part in parts:
        assert part in printed


def test_a_plan_of_a_newer_version_is_told(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    from tuner import worker

    path = empty.write_plan()
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"format": 99, "tuner": "7.1", "unheard": 1}))
    assert worker.main([str(path)]) == 2
    assert_one_message(capsys.readouterr().err, "the plan has format 99, newer than", "written by 7.1", "upgrade")


def test_a_damaged_plan_is_told(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    from tuner import worker

    path = empty.write_plan()
    path.write_text(path.read_text()[:-20])
    assert worker.main([str(path)]) == 4
    assert_one_message(capsys.readouterr().err, str(path))


def test_rows_that_do_not_fit_stop_before_anything_is_marked(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    (empty.folder / "train.jsonl").write_text('{"text_in": "a", "text_out": "b"}\n')
    assert run(empty) == 2
    assert_one_message(capsys.readouterr().err, "no known shape", "['text_in', 'text_out']", "data.columns={prompt: your_column")
    assert not list((empty.folder / "outputs").rglob("stages/*"))


def test_broken_held_out_rows_are_told_before_training(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    with (empty.folder / "eval.jsonl").open("a") as stream:
        stream.write('{"messages": [}\n')
    assert run(empty) == 2
    assert_one_message(capsys.readouterr().err, f"{empty.folder / 'eval.jsonl'}:9", "not valid JSON")


def test_an_unreachable_hub_is_told_quickly(empty: Lab) -> None:
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "tuner", "recipe=small", "model.id=nobody/nothing"],
        cwd=empty.folder,
        env=environ(HF_HUB_OFFLINE="1", HF_HOME=str(empty.folder / "hf")),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 4, done.stdout + done.stderr
    assert_one_message(done.stderr, "cannot load nobody/nothing from the Hub", "tune doctor")
    assert time.perf_counter() - began < 30
    assert not list((empty.folder / "outputs").rglob("stages/*"))


def test_an_unreachable_dataset_is_told(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(empty, "data.path=null", "data.eval_path=null", "data.id=nobody/rows") == 4
    assert_one_message(capsys.readouterr().err, "cannot load the dataset nobody/rows", "data.id", "use local rows with `data.path`")


@pytest.mark.parametrize(
    "changes", [["trainer.logging_steps=100", "trainer.save_steps=0"], ["eval.metrics=[]"], ["data.limit=1"], ["eval.limit=1"]]
)
def test_the_edges_of_a_run_end_well(empty: Lab, changes: list[str]) -> None:
    """No log line, no score, one row, one held-out row: report and card are made all the same."""
    assert run(empty, *changes) == 0
    (folder,) = (empty.folder / "outputs" / "small").iterdir()
    assert (folder / "report.html").stat().st_size > 1000
    assert (folder / "published" / "README.md").is_file()


def test_a_model_folder_without_weights_is_told(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model(empty.folder / "model")
    (folder / "model.safetensors").unlink()
    assert run(empty, f"model.id={folder}") == 4
    assert_one_message(capsys.readouterr().err, "cannot load the model", "config.json, weights and tokenizer")


def test_model_weights_that_are_damaged_are_told(empty: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_model(empty.folder / "model")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:1000])
    assert run(empty, f"model.id={folder}") == 4
    assert_one_message(capsys.readouterr().err, "cannot load the model")


@contextlib.contextmanager
def disk(folder: Path, *options: str) -> Iterator[Path]:
    """A small disk of its own. Skips where it cannot be had."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"needs to mount a small disk: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_read_only_output_folder_is_told(empty: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with disk(tmp_path / "disk", "ro", "size=1m") as place:
        assert run(empty, f"output_dir={place / 'outputs'}") == 4
        assert_one_message(capsys.readouterr().err, "Read-only file system", str(place), "set output_dir to a folder you can write")


@pytest.mark.parametrize("size_kb", [8, 60, 200, 400, 700])
def test_a_full_disk_is_told_and_marks_nothing_half_done(
    empty: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str], size_kb: int
) -> None:
    """The disk fills at another moment each time; with room, the same command then goes on and finishes."""
    with disk(tmp_path / "disk", f"size={size_kb}k") as place:
        assert run(empty, f"output_dir={place / 'outputs'}", "eval.generate=false") == 4
        printed = capsys.readouterr()
        assert_one_message(printed.err, "free some space")
        full = ("cannot write: No space left on device", "cannot be written: No space left on device", "the disk is too small")
        assert any(words in printed.err for words in full)
        for marker in place.rglob("stages/*.json"):
            assert json.loads(marker.read_text())["finished"]
        assert not list(place.rglob("*.tmp"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(place)], check=True)
        assert run(empty, f"output_dir={place / 'outputs'}", "eval.generate=false") == 0
        (folder,) = (place / "outputs" / "small").iterdir()
        assert [e["step"] for e in log_of(folder)] == [1, 2, 3, 4, 5]
