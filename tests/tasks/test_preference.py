"""`task: dpo` and its kin, `kto`, `reward`: losses beside TRL's, the reference, what is saved, measured and refused, over a tiny Llama."""

from __future__ import annotations

import contextlib
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification, LoraConfig, get_peft_model
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.lab import Lab, by_two_and_by_one, log_of, losses_of, make_lab, task_of, tiny_model, tiny_tokenizer, train, weights_of
from tests.tasks import cards
from tuner import cli
from tuner.data.pairs import coded
from tuner.data.splits import held_out, split
from tuner.data.store import PairRows
from tuner.errors import GATE, TuneError
from tuner.eval.compare import compare, rewarded
from tuner.eval.scores import Scored, summary
from tuner.model import packed
from tuner.model.preferences import answers, of_pairs
from tuner.runs import read_json
from tuner.schema.preferences import Cpo, Dpo, Kto, Orpo, Preference, SimPo

RECIPE = """\
# small — a test
defaults: [{task: dpo}]
model: {id: MODEL, dtype: float32}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""
TASKS = ("dpo", "simpo", "cpo", "orpo")


def lab_of(folder: Path, *, rows: int = 24) -> Lab:
    """Prompts with a polite and a rude answer."""
    lab = make_lab(folder, recipe=RECIPE)
    for name, count, seed in (("train", rows, 1), ("eval", 12, 2)):
        chance = random.Random(seed)
        lines = []
        for _ in range(count):
            letter = chance.choice("abcdefgh")
            row = {"prompt": f"{letter}?", "chosen": f"please {letter}", "rejected": f"no {letter * chance.randint(1, 9)}"}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{name}.jsonl").write_text("".join(lines))
    return lab


def measured(run: Any, tuned: Path | None) -> dict[str, float]:
    task = task_of(run)
    return summary(task.score(run, task.load(run, tuned=tuned), held_out(run)), task.formulas(run))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("adapter", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_what_is_preferred_becomes_likelier(task: str, adapter: str, tmp_path: Path) -> None:
    run = lab_of(tmp_path).run(f"task={task}", f"adapter={adapter}", "trainer.num_train_epochs=6", "trainer.learning_rate=5e-3")
    train(run)
    base, tuned = measured(run, None), measured(run, run.folder)
    assert tuned["margin"] > base["margin"]
    assert tuned["preference_accuracy"] > base["preference_accuracy"]
    assert set(tuned) == {"preference_accuracy", "margin", "chosen_loss"}


@pytest.mark.parametrize(
    ("task", "measure"), [("dpo", "preference accuracy"), ("kto", "reward accuracy"), ("reward", "preference accuracy")]
)
def test_a_run_from_the_command_line_to_the_card(task: str, measure: str, tmp_path: Path) -> None:
    lab = lab_of(tmp_path) if task != "kto" else liked(lab_of(tmp_path))
    with contextlib.chdir(tmp_path):
        assert cli.main(["recipe=small", "launcher=inline", f"task={task}", "trainer.max_steps=3"]) == 0
    (folder,) = (tmp_path / "outputs" / "small").iterdir()
    assert ("loss on both answers" if task != "reward" else "num_labels=1") in (folder / "README.md").read_text(encoding="utf-8")
    report = (folder / "report.html").read_text(encoding="utf-8")
    assert measure in report.lower()
    assert "<h3>Base" not in report
    assert "matches" not in report
    rows = 24 if task != "kto" else 48
    assert re.search(rf"<dt>Rows</dt><dd>{rows}<small>0 with nothing to train", report)
    assert re.search(r"<h3>(Liked|Chosen) .*? → .*?</h3>\s*<pre>please", report)
    assert re.search(r"<h3>(Disliked|Rejected) .*? → .*?</h3>\s*<pre>no", report)
    assert cards.printed(folder, {} if task == "reward" else {"max_new_tokens=256": "max_new_tokens=4"})
    run = lab.run(f"task={task}")
    assert len(task_of(run).show(run, split(run)[0], 0)["segments"]) > 2


def test_what_is_saved_loads_in_plain_peft(tmp_path: Path) -> None:
    run = lab_of(tmp_path).run("trainer.max_steps=3")
    train(run)
    assert all("lora" in name for name in weights_of(run.folder))
    ours: Any = task_of(run).load(run, tuned=run.folder)
    plain: Any = AutoPeftModelForCausalLM.from_pretrained(run.folder)
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, plain.eval()(input_ids=ids).logits, atol=1e-5)


@pytest.fixture
def policy() -> Any:
    """An adapter that says something else than its base."""
    torch.manual_seed(0)
    packed.register()
    base = AutoModelForCausalLM.from_pretrained(tiny_model(), attn_implementation=packed.ATTENTION)
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model.eval()


def batch_of(policy: Any, task: Any, *, padding_free: bool) -> tuple[Any, dict[str, Any]]:
    """An objective, and three pairs with the base's log-probabilities."""
    examples = [
        {"prompt": [{"role": "user", "content": p}], "chosen": [said(c)], "rejected": [said(r)], "tools": None}
        for p, c, r in (("a?", "please a", "no"), ("bb?", "please", "nothing at all"), ("c?", "yes c", "ccc"))
    ]
    pairs = coded(examples, tiny_tokenizer(), 64)
    items = [
        {"rows": [{"input_ids": row.ids.tolist(), "labels": np.where(row.trained, row.ids, -100).tolist()} for row in p]} for p in pairs
    ]
    wanted = of_pairs(task, tiny_tokenizer(), padding_free=padding_free)
    batch = wanted.collate(items)
    batch.pop("filler")
    with torch.no_grad(), policy.disable_adapter():
        batch["reference"] = answers(policy, batch)[0].reshape(-1, 2)
    return wanted, batch


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "kind", [k if k in (Preference.sigmoid, Preference.ipo) else pytest.param(k, marks=pytest.mark.slow) for k in Preference]
)
def test_a_loss_is_that_of_trl(kind: Preference, policy: Any, tmp_path: Path) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    noise = 0.1 if kind in (Preference.sigmoid, Preference.robust) else 0.0
    task = Dpo(loss_type=kind, label_noise=noise, beta=0.3)
    wanted, batch = batch_of(policy, task, padding_free=False)
    ours = wanted.loss(policy, batch, 0.0) / wanted.count(batch)
    flat_wanted, flat = batch_of(policy, task, padding_free=True)
    assert float((flat_wanted.loss(policy, flat, 0.0) / flat_wanted.count(flat)).detach()) == pytest.approx(float(ours.detach()), rel=1e-4)
    if kind is Preference.sigmoid:  # TRL's has no smoothing under this name
        task = Dpo(loss_type=kind, beta=0.3)
        ours = batch_of(policy, task, padding_free=False)[0].loss(policy, batch, 0.0) / 3
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "a?"}], "chosen": [said("b")], "rejected": [said("c")]}] * 2)
    args = DPOConfig(
        output_dir=str(tmp_path),
        loss_type=[kind.value],
        beta=0.3,
        label_smoothing=noise,
        use_cpu=True,
        report_to=[],
        bf16=False,
        gradient_checkpointing=False,
        precompute_ref_log_probs=False,
    )
    peer = DPOTrainer(model=policy, args=args, train_dataset=rows, processing_class=tiny_tokenizer())
    order = torch.tensor([0, 2, 4, 1, 3, 5])  # all better answers before all worse ones
    inputs = {"input_ids": batch["input_ids"][order], "attention_mask": batch["attention_mask"][order]}
    inputs |= {"ref_chosen_logps": batch["reference"][:, 0], "ref_rejected_logps": batch["reference"][:, 1]}
    peer.precompute_ref_logps = True
    inputs["completion_mask"] = (batch["labels"][order] != -100).long()
    peer.model.eval()
    theirs = peer._compute_loss(peer.model, inputs, False)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4)


def test_losses_without_a_reference(policy: Any) -> None:
    """Written out: SimPO with its margin, CPO and ORPO with the loss of the better answer."""
    found = {}
    for task in (SimPo(beta=2.0, margin=0.5), Cpo(beta=0.2, sft_weight=0.7), Orpo(beta=0.4)):
        wanted, batch = batch_of(policy, task, padding_free=False)
        found[type(task)] = float((wanted.loss(policy, batch, 0.0) / 3).detach())
    sums, counts = answers(policy, batch)
    (c, r), (m, n) = sums.detach().reshape(-1, 2).unbind(1), counts.reshape(-1, 2).unbind(1)
    assert found[SimPo] == pytest.approx(float(-F.logsigmoid(2.0 * (c / m - r / n) - 0.5).mean()), rel=1e-5)
    assert found[Cpo] == pytest.approx(float((-F.logsigmoid(0.2 * (c - r)) - 0.7 * c / m).mean()), rel=1e-5)
    odds = (c / m - r / n) - (torch.log1p(-torch.exp(c / m)) - torch.log1p(-torch.exp(r / n)))
    assert found[Orpo] == pytest.approx(float((-c / m - 0.4 * F.logsigmoid(odds)).mean()), rel=1e-5)


def test_it_begins_where_nothing_is_preferred_yet(tmp_path: Path) -> None:
    """Against the model as it was, the first loss is log 2; the reference is kept, and a resumed training compares with the same."""
    lab = lab_of(tmp_path)
    options = ("trainer.num_train_epochs=3", "trainer.eval_steps=3", "eval.enabled=false", "hub.enabled=false")
    whole, cut = lab.run("name=whole", *options), lab.run("name=cut", *options)
    train(whole)
    assert losses_of(whole.folder)[0] == pytest.approx(np.log(2), abs=1e-4)
    train(cut)
    for later in (cut.folder / "checkpoints").glob("checkpoint-[789]"):
        later.rename(later.with_name(f"gone-{later.name[-1]}"))
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut", *options))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert all(e["eval_loss"] < np.log(2) for e in log_of(whole.folder) if "eval_loss" in e)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """21 pairs, 8 a step: the last step of an epoch has five, and three of its places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.learning_rate=1e-3")
    two, one = by_two_and_by_one(lab_of(tmp_path, rows=21), *more)
    assert two == pytest.approx(one, rel=1e-4)


def test_rows_whose_answers_are_alike_or_cut_off_are_left_out(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "x?", "chosen": "same", "rejected": "same"}) + "\n")
        stream.write(json.dumps({"prompt": "x" * 200, "chosen": "a", "rejected": "b"}) + "\n")
    run = lab.run("task.max_length=100")
    prepared = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], prepared)
    assert len(PairRows(prepared)) == 24
    assert read_json(prepared / "data.json")["train"]["rows"] == 24
    assert any("2 of 26 rows are left out" in line for line in lab.told)
    short = lab.run("task.max_length=8")
    with pytest.raises(TuneError) as caught:
        task_of(short).prepare(short, split(short)[0], short.stage_folder("prepare"))
    assert caught.value.code == GATE


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.overlong=split", "has no use for `data.overlong`"),
        ("trainer.label_smoothing_factor=0.1", "has no use for `trainer.label_smoothing_factor`"),
        ("eval.metrics=[json]", "has no use for `eval.metrics`"),
        ("task={loss_type: ipo, label_noise: 0.1}", "knows no `task.label_noise`"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    overrides = [override] if "{" not in override else ["task.loss_type=ipo", "task.label_noise=0.1"]
    with pytest.raises(TuneError, match=what):
        lab_of(tmp_path).plan(*overrides)


def test_rows_of_another_layout_are_named(tmp_path: Path) -> None:
    run = make_lab(tmp_path, recipe=RECIPE).run()
    with pytest.raises(TuneError, match="learns from two answers to a prompt"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))


def liked(lab: Lab) -> Lab:
    """The same answers one by one, and whether they were liked."""
    for name in ("train", "eval"):
        path = lab.folder / f"{name}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        both = [{"prompt": r["prompt"], "completion": r[k], "label": k == "chosen"} for r in rows for k in ("chosen", "rejected")]
        path.write_text("".join(json.dumps(row) + "\n" for row in both))
    return lab


@pytest.mark.filterwarnings("ignore")
def test_the_loss_of_kto_is_that_of_trl(policy: Any) -> None:
    """Written out after TRL 1.16 (kto_trainer.py): the level is how much likelier mismatched answers have become, not below 0."""
    wanted, batch = batch_of(policy, Kto(beta=0.3, desirable_weight=1.5), padding_free=True)
    batch["liked"] = torch.tensor([True, False, True])
    ours = float((wanted.loss(policy, batch, 0.0) / 3).detach())
    gained = (answers(policy, batch)[0].detach().reshape(-1, 2) - batch["reference"]).unbind(1)
    level = gained[1].mean().clamp(min=0)
    signs = torch.tensor([1.0, -1.0, 1.0])
    expected = (torch.tensor([1.5, 1.0, 1.5]) * (1 - torch.sigmoid(0.3 * signs * (gained[0] - level)))).mean()
    assert ours == pytest.approx(float(expected), rel=1e-5)


def test_what_was_liked_becomes_likelier(tmp_path: Path) -> None:
    lab = liked(lab_of(tmp_path))
    run = lab.run("task=kto", "trainer.num_train_epochs=4", "trainer.learning_rate=5e-3")
    train(run)
    assert losses_of(run.folder)[0] == pytest.approx(0.5, abs=1e-3)
    task = task_of(run)
    before, after = (task.score(run, task.load(run, tuned=tuned), held_out(run)) for tuned in (None, run.folder))
    rewarded(before, after)
    found = compare(before, after, samples=200, seed=0, formulas=task.formulas(run))
    base, tuned = found["base"], found["tuned"]
    assert tuned["margin"] > base["margin"] + 0.1
    assert set(tuned) == {"reward_accuracy", "margin", "chosen_loss"}
    assert base["reward_accuracy"] == 0.5 < 0.8 < tuned["reward_accuracy"]
    assert found["verdicts"]["reward_accuracy"] == "better"
    assert "24 answers were liked, 24 were not" in lab.told


def test_an_answer_that_was_liked_is_to_become_likelier() -> None:
    """The sign of log p(tuned) − log p(base), as the implicit reward of DPO and KTO has it; what was cut off says nothing."""
    liked, nats = (True, True, False, False, True, True), ((9.0, 7.0), (9.0, 9.5), (9.0, 9.5), (9.0, 7.0), (9.0, 9.0), (0.0, 0.0))
    base, tuned = (
        [Scored(prompt=[], reference="", liked=yes, loss_sum=pair[who], tokens=int(pair[0])) for yes, pair in zip(liked, nats, strict=True)]
        for who in (0, 1)
    )
    rewarded(base, tuned)
    assert [row.scores.get("reward_accuracy") for row in tuned] == [1.0, 0.0, 1.0, 0.0, 0.5, None]
    assert [row.scores.get("reward_accuracy") for row in base] == [0.5] * 5 + [None]


def test_rows_are_counted_and_not_their_answers(tmp_path: Path) -> None:
    """Two rows that are the same, one whose worse answer is cut, one whose answers are alike; of kto an answer liked and not is no copy."""
    lab = lab_of(tmp_path, rows=4)
    rows = [("a?", "yes", "no"), ("a?", "yes", "no"), ("b?", "yes", "n" * 90), ("c?", "yes", "yes")]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"prompt": p, "chosen": c, "rejected": r}) + "\n" for p, c, r in rows))
    found = prepared(lab.run("task.max_length=100"))
    assert {n: found[1][n] for n in ("rows", "rows_truncated", "rows_fully_masked")} == {
        "rows": 4,
        "rows_truncated": 1,
        "rows_fully_masked": 1,
    }
    assert (found[0]["rows"], found[0]["duplicates"], sum(count for _, count in found[0]["histogram"])) == (3, 1, 3)
    rows = [("a?", "yes", True), ("b?", "no", False), ("a?", "yes", False), ("c?", "no", True), ("a?", "yes", True), ("d?", "no", False)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"prompt": p, "completion": c, "label": y}) + "\n" for p, c, y in rows))
    found = prepared(lab.run("task=kto"))
    assert found[1]["rows"] == 6
    assert (found[0]["rows"], found[0]["duplicates"]) == (6, 1)
    assert found[0]["tokens"] == found[1]["tokens"]


def prepared(run: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Statistics of the training rows, and their audit."""
    folder = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], folder)
    return read_json(folder / "data.json")["train"], read_json(folder / "audit.json")


def test_answers_that_were_all_liked_are_refused(tmp_path: Path) -> None:
    lab = liked(lab_of(tmp_path))
    path = tmp_path / "train.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if '"label": true' in line))
    run = lab.run("task=kto")
    with pytest.raises(TuneError, match="every answer was liked"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))


@pytest.mark.parametrize("adapter", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_a_reward_tells_the_better_answer(adapter: str, tmp_path: Path) -> None:
    """Pairwise accuracy goes up; what is saved gives the same number in plain PEFT, padded or not."""
    run = lab_of(tmp_path).run("task=reward", f"adapter={adapter}", "trainer.num_train_epochs=4", "trainer.eval_steps=6")
    train(run)
    base, tuned = measured(run, None), measured(run, run.folder)
    assert tuned["preference_accuracy"] == 1.0 > base["preference_accuracy"]
    assert tuned["loss"] < base["loss"]
    ours: Any = task_of(run).load(run, tuned=run.folder)
    plain: Any = AutoPeftModelForSequenceClassification if adapter == "lora" else AutoModelForSequenceClassification
    options = {"num_labels": 1, "pad_token_id": tiny_tokenizer().pad_token_id} if adapter == "lora" else {}
    again = plain.from_pretrained(run.folder, **options).eval()
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-5)


def test_an_answer_is_given_its_reward(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`tune try` gives the number that the report has of the same row; a prompt alone is told what it lacks."""
    lab_of(tmp_path)
    with contextlib.chdir(tmp_path):
        assert cli.main(["recipe=small", "launcher=inline", "task=reward", "trainer.num_train_epochs=2"]) == 0
        (line, *_) = next((tmp_path / "outputs" / "small").glob("*/eval/*/rows.jsonl")).read_text(encoding="utf-8").splitlines()
        row, found = json.loads(line), []
        for one in row["weighed"]:
            capsys.readouterr()
            assert cli.main(["try", "small", row["prompt"][-1]["content"], f"answer={one['text']}", "--json"]) == 0
            found.append(json.loads(capsys.readouterr().out.splitlines()[-1])["reward"])
        assert found == pytest.approx([one["worth"][1] for one in row["weighed"]], abs=1e-3)
        assert cli.main(["try", "small", "a?"]) == 2
        assert "answer=" in capsys.readouterr().err


@pytest.mark.parametrize("override", ["adapter=prompt", "adapter=pissa", "model.add_tokens=[x]"])
def test_a_reward_has_no_use_for_what_is_for_writing(override: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=r"models that write|has no use"):
        lab_of(tmp_path).plan("task=reward", override)
