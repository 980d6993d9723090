"""`task: classify`: what is learned, saved, measured and refused, over a tiny BERT; scores beside scikit-learn's and scipy's."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from scipy import stats
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from tests.lab import Lab, by_two_and_by_one, log_of, losses_of, task_of, train, weights_of
from tests.tasks import cards, labs
from tuner import cli, worker
from tuner.data.labels import Labels
from tuner.data.splits import held_out, split
from tuner.data.store import LabelRows
from tuner.data.turns import Misfit
from tuner.errors import GATE, TuneError
from tuner.eval.scores import Scored, summary
from tuner.registry import kinds
from tuner.runs import read_json
from tuner.schema.beyond_lora import Virtual
from tuner.train.rows import alike

OFTEN = ("full", "lora", "ia3")  # the others are `slow`
ADAPTERS = sorted(name for name, cls in kinds("adapter").items() if not issubclass(cls, Virtual))


def tune(lab: Lab, *args: str) -> int:
    """`tune …` in the project folder, in this process."""
    with contextlib.chdir(lab.folder):
        return cli.main(list(args))


def scored(lab: Lab, *overrides: str, run: Any = None) -> tuple[Any, list[Scored]]:
    """(run, held-out rows as the tuned model sees them)."""
    run = run or lab.run(*overrides)
    train(run)
    model = task_of(run).load(run, tuned=run.folder)
    return run, task_of(run).score(run, model, held_out(run))


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.classes(tmp_path)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=8") == 0
    printed = capsys.readouterr().out
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {}
    assert found["tuned"]["accuracy"] == found["tuned"]["f1_macro"] == 1.0
    assert found["base"]["accuracy"] < 0.8
    assert "accuracy" in printed
    assert read_json(folder / "audit.json")["labels"] == {"good": 24, "bad": 24}
    assert read_json(folder / "data.json")["labels"] == ["bad", "good"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: text-classification" in card
    assert "perplexity" not in card
    assert 'labels = ["bad", "good"]' in card
    assert "'label': 'good'" in cards.printed(folder, {"…": "a fine warm good film"})
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert "good 24, bad 24" in report
    assert "End of turn" not in report
    assert tune(lab, "try", "small", "a warm day", "--json") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[0]["label"] == "good"
    plan = str(lab.write_plan())
    assert worker.main([plan, "--preview", "1"]) == worker.main([plan, "--check"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "→" in said
    assert "labels by row: good 24, bad 24" in said


@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning", "ignore:Unsupported layer type:UserWarning")
@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension:UserWarning", "ignore:Setting boft_n_butterfly:UserWarning")
@pytest.mark.parametrize("adapter", [a if a in OFTEN else pytest.param(a, marks=pytest.mark.slow) for a in ADAPTERS])
def test_an_adapter_and_its_head_load_in_plain_peft(adapter: str, tmp_path: Path) -> None:
    """What moved is the adapter and the head; what was saved gives the tuned model's logits, over a base whose head is drawn anew."""
    lab = labs.classes(tmp_path)
    run = lab.run(f"adapter={adapter}", "trainer.max_steps=3", "trainer.save_steps=0")
    before = {name: p.clone() for name, p in task_of(run).load(run).named_parameters()}
    train(run)
    ours: Any = task_of(run).load(run, tuned=run.folder)
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    inputs = tokenizer(["a good day", "the cold film with a fever"], padding=True, return_tensors="pt")
    if adapter == "full":
        plain: Any = AutoModelForSequenceClassification.from_pretrained(run.folder)
        assert plain.config.id2label == {0: "bad", 1: "good"}
    else:
        torch.manual_seed(5)
        plain = AutoPeftModelForSequenceClassification.from_pretrained(run.folder, num_labels=2)
        assert any("classifier" in name for name in weights_of(run.folder))
        assert not any("lora" in name for name in weights_of(run.folder) if "classifier" in name)
    with torch.no_grad():
        logits = plain.eval()(**inputs).logits
        assert torch.allclose(logits, ours(**inputs).logits, atol=1e-6)
        base: Any = task_of(run).load(run)
        assert not torch.allclose(logits, base(**inputs).logits, atol=1e-4)
    moved = {
        n
        for n, p in ours.named_parameters()
        if (b := before.get(n.removeprefix("base_model.model."))) is not None and not torch.equal(p, b)
    }
    assert all(adapter in ("full", "layernorm") or "classifier" in name for name in moved), moved


def test_a_head_begins_alike_in_every_process(tmp_path: Path) -> None:
    run = labs.classes(tmp_path).run()
    torch.manual_seed(1)
    first = task_of(run).load(run).classifier.weight
    torch.manual_seed(2)
    assert torch.equal(first, task_of(run).load(run).classifier.weight)


def test_several_labels_a_row(tmp_path: Path) -> None:
    """F1 over all labels and the mean of each label's are scikit-learn's."""
    run, rows = scored(labs.several(tmp_path), "task.problem=multi_label", "trainer.num_train_epochs=5")
    names = ["bad", "fever", "good"]
    said, true = (
        [[int(name in text.split(", ")) for name in names] for text in texts]
        for texts in zip(*((r.answer, r.reference) for r in rows), strict=True)
    )
    found = summary(rows, task_of(run).formulas(run))
    assert found["f1_micro"] == pytest.approx(f1_score(true, said, average="micro"))
    assert found["f1_macro"] == pytest.approx(f1_score(true, said, average="macro"))
    assert found["f1_micro"] > 0.7
    assert found["exact_match"] == pytest.approx(np.mean([a == b for a, b in zip(said, true, strict=True)]))


def test_a_number_a_row(tmp_path: Path) -> None:
    """Correlations are scipy's; the two texts of a pair are told apart by their types."""
    run, rows = scored(labs.numbers(tmp_path), "task.problem=regression", "trainer.num_train_epochs=4")
    found = summary(rows, task_of(run).formulas(run))
    said, true = [float(r.answer) for r in rows], [float(r.reference) for r in rows]
    assert found["pearson"] == pytest.approx(stats.pearsonr(said, true).statistic, abs=1e-3)
    assert found["spearman"] == pytest.approx(stats.spearmanr(said, true).statistic, abs=1e-3)
    assert found["mae"] == pytest.approx(np.mean(np.abs(np.subtract(said, true))), abs=1e-3)
    rows_kept = np.load(run.stage_folder("prepare") / "types.npy")
    assert set(rows_kept.tolist()) == {0, 1}


def test_macro_f1_is_that_of_scikit_learn(tmp_path: Path) -> None:
    run, rows = scored(labs.classes(tmp_path), "trainer.max_steps=2", "trainer.learning_rate=1e-3")
    said, true = [r.answer for r in rows], [r.reference for r in rows]
    assert summary(rows, task_of(run).formulas(run))["f1_macro"] == pytest.approx(f1_score(true, said, average="macro"))


def test_rows_of_like_length_are_batched_together(tmp_path: Path) -> None:
    """Each row once, in another order each epoch; and fewer tokens of padding."""
    lengths = np.random.default_rng(0).integers(4, 200, 1000)
    order = np.random.default_rng(1).permutation(1000).tolist()

    def padding(rows: list[int]) -> int:
        return sum(max(lengths[rows[i : i + 8]]) * len(rows[i : i + 8]) for i in range(0, 1000, 8)) - int(lengths.sum())

    found = list(alike(order, lengths, 8, seed=1, block=16))
    assert sorted(found) == list(range(1000))
    assert padding(found) < 0.2 * padding(order)
    assert padding(found) < padding(list(alike(order, lengths, 8, seed=1, block=4))) < 0.5 * padding(order)
    assert found != list(alike(order, lengths, 8, seed=2, block=16))
    short = list(alike(order[:13], lengths, 8, seed=1, block=16))
    assert sorted(short[:8]) == sorted(order[:8])
    assert short[8:] == order[8:13]


def test_a_training_that_was_cut_off_ends_as_the_other(tmp_path: Path) -> None:
    """Bitwise, from the middle of an epoch whose rows are grouped by length."""
    lab = labs.classes(tmp_path)
    options = ("trainer.num_train_epochs=2", "trainer.eval_steps=5", "eval.enabled=false", "hub.enabled=false")
    whole, cut = lab.run("name=whole", *options), lab.run("name=cut", *options)
    train(whole)
    task, folder = task_of(cut), cut.stage_folder("prepare")
    task.prepare(cut, split(cut)[0], folder)
    train(cut)
    for later in (cut.folder / "checkpoints").glob("checkpoint-12"):
        later.rename(later.with_name("gone"))
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut", *options))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [e["eval_loss"] for e in log_of(whole.folder) if "eval_loss" in e]


@pytest.mark.slow
@pytest.mark.ci
def test_an_epoch_that_ends_with_blank_rows_over_two_processes(tmp_path: Path) -> None:
    """45 rows, 8 a step: losses and gradients are those of one process, which sees the same batches."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.eval_steps=4")
    two, one = by_two_and_by_one(labs.classes(tmp_path, rows=45), *more, keys=("loss", "grad_norm", "eval_loss"))
    assert two == pytest.approx(one, rel=1e-4)


def test_labels_by_number_and_by_name(tmp_path: Path) -> None:
    lab = labs.classes(tmp_path)
    for name in ("train", "eval"):
        path = tmp_path / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        path.write_text("".join(json.dumps(r | {"label": int(r["label"] == "good")}) + "\n" for r in rows))
    run = lab.run("task.labels=[negative,positive]")
    train(run)
    assert read_json(run.stage_folder("prepare") / "audit.json")["labels"] == {"positive": 24, "negative": 24}


@pytest.mark.parametrize(
    ("change", "overrides", "what"),
    [
        ({"label": "other"}, (), "the label `other` is none of 2: bad, good"),
        ({"label": ""}, (), "the label is empty"),
        ({"label": ["good"]}, (), "several labels"),
        ({}, ("task.problem=multi_label", "task.labels=[good,bad]"), "needs a list of labels"),
        ({}, ("task.problem=regression",), "needs a number, and the label is"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change: dict[str, Any], overrides: tuple[str, ...], what: str, tmp_path: Path) -> None:
    lab = labs.classes(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    rows[3] |= change
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = lab.run(*overrides)
    with pytest.raises(TuneError, match=what.replace("[", r"\[")) as caught:
        task_of(run).check(run, held_out(run))
    assert "eval.jsonl:" in caught.value.problems[0].where
    if change.get("label") == "other":
        skipping = lab.run("data.on_error=skip")
        task_of(skipping).check(skipping, held_out(skipping))


def test_one_label_alone_teaches_nothing(tmp_path: Path) -> None:
    lab = labs.classes(tmp_path)
    rows = [line for line in (tmp_path / "train.jsonl").read_text().splitlines(keepends=True) if '"good"' in line]
    (tmp_path / "train.jsonl").write_text("".join(rows))
    with pytest.raises(TuneError, match="every row has the label `good`") as caught:
        train(lab.run("task.labels=[bad,good]"))
    assert caught.value.code == GATE


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("trainer.padding_free=always", "trainer.padding_free"),
        ("data.overlong=split", "data.overlong"),
        ("adapter=pissa", "adapter.init_lora_weights"),
        ("adapter=eva", "adapter.init_lora_weights"),
        ("data.system=hello", "data.system"),
        ("model.chat_template=x", "model.chat_template"),
        ("model.add_tokens=[a]", "model.add_tokens"),
        ("eval.metrics=[json]", "eval.metrics"),
        ("adapter=prompt", "adapter"),
        ("task.labels=[a,a]", "task.labels"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, key: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError) as caught:
        labs.classes(tmp_path).plan(override)
    assert key in str(caught.value)


def test_a_named_number_contradicts_a_regression(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="which has no labels"):
        labs.classes(tmp_path).plan("task.problem=regression", "task.labels=[a]")


def test_rows_of_another_layout_are_named(tmp_path: Path) -> None:
    lab = labs.tags(tmp_path)
    run = lab.run("task=classify")
    with pytest.raises(TuneError, match=r"learns from texts with labels .* laid out as tags"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))


def test_rows_that_change_the_labels_measure_the_base_again(tmp_path: Path) -> None:
    """The head has as many outputs as the training rows have labels, unless they are named."""
    lab = labs.classes(tmp_path)
    before, named = lab.plan(), lab.plan("task.labels=[bad,good]")
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"text": "a day", "label": "so so"}) + "\n")
    assert lab.plan().stage("baseline").key != before.stage("baseline").key
    assert lab.plan("task.labels=[bad,good]").stage("baseline").key == named.stage("baseline").key


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_a_run_goes_on_from_another_ones_head(adapter: str, tmp_path: Path) -> None:
    """`model=run:NAME` begins where that run ended: the loss of its first step is that of a model that has learned."""
    lab = labs.classes(tmp_path)
    with contextlib.chdir(lab.folder):
        options = ("launcher=inline", "trainer.num_train_epochs=4", f"adapter={adapter}", "eval.enabled=false")
        assert cli.main(["recipe=small", *options]) == 0
        assert cli.main(["recipe=small", *options, "name=next", "model=run:small"]) == 0
    first, second = (losses_of(next((lab.folder / "outputs" / name).iterdir())) for name in ("small", "next"))
    assert second[0] < 0.3 * first[0]


def test_numbers_that_are_labels_are_not_places_of_labels() -> None:
    assert Labels(names=("negative", "positive")).number("1") == 1
    assert Labels(names=("1", "2", "3")).number(2.0) == 1
    with pytest.raises(Misfit, match="the label `0` is none of 3"):
        Labels(names=("1", "2", "3")).number("0")


@pytest.mark.parametrize(("overrides", "refused"), [((), True), (("task.problem=multi_label",), False)])
def test_one_label_tells_nothing_apart(overrides: tuple[str, ...], refused: bool, tmp_path: Path) -> None:
    """Of several labels a row may have the one, or not."""
    lab = labs.classes(tmp_path)
    if not refused:
        assert lab.plan("task.labels=[neg]", *overrides)
        return
    with pytest.raises(TuneError, match="names one label, 'neg': there is nothing to tell apart"):
        lab.plan("task.labels=[neg]", *overrides)


def test_a_number_may_be_a_score(tmp_path: Path) -> None:
    """Of a text as of a pair of texts; where a class is learned it is another column."""
    lab = labs.classes(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"text": "a film", "score": 0.5}\n{"text": "a day", "score": 2}\n' * 4, encoding="utf-8")
    run = lab.run("task.problem=regression")
    task_of(run).prepare(run, split(run)[0], tmp_path / "prepared")
    assert [row["rows"][0]["labels"] for row in map(LabelRows(tmp_path / "prepared").__getitem__, range(2))] == [0.5, 2.0]
    with pytest.raises(TuneError, match="learns from texts with labels"):
        task_of(lab.run()).prepare(lab.run(), split(lab.run())[0], tmp_path / "others")
