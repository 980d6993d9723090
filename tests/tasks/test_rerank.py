"""`task: rerank`: loss, numbers and measures beside sentence-transformers' CrossEncoder, what is saved and refused; over a tiny BERT."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sentence_transformers import CrossEncoder
from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator
from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
from transformers import AutoTokenizer, pipeline

from tests.lab import Lab, by_two_and_by_one, task_of, train, weights_of
from tests.tasks import cards, labs
from tests.tasks.test_classify import tune
from tests.tasks.test_qa import Terminal
from tuner.data.splits import held_out, split
from tuner.errors import GATE, TuneError
from tuner.eval.scores import summary
from tuner.eval.search import reordered
from tuner.model.ranking import of_pairs
from tuner.runs import read_json

QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LEARNING = ("trainer.num_train_epochs=6", "trainer.batch_size=16", "trainer.learning_rate=3e-3", "trainer.save_steps=0")
SHORT = ("trainer.max_steps=3", "trainer.save_steps=0")


def given(lab: Lab, name: str = "eval") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lab.folder / f"{name}.jsonl").read_text().splitlines()]


def learned(lab: Lab, *overrides: str) -> tuple[Any, Any, dict[str, float], dict[str, float]]:
    """(run, held-out queries as tuned sees them, what the base and the tuned model measure)."""
    run = lab.run(*overrides)
    train(run)
    task = task_of(run)
    base = summary(task.score(run, task.load(run), held_out(run)), task.formulas(run))
    rows = task.score(run, task.load(run, tuned=run.folder), held_out(run))
    return run, rows, base, summary(rows, task.formulas(run))


@QUIET
@pytest.mark.parametrize("kind", ["label", "triplet"])
def test_a_catalogue_is_put_into_order(kind: str, tmp_path: Path) -> None:
    """MRR rises; it and nDCG are those of sentence-transformers' evaluator over what was saved."""
    rows = {"label": 384, "triplet": 96}[kind]
    lab = labs.passages(tmp_path, kind=kind, rows=rows, held_out=48)
    run, _, base, tuned = learned(lab, "adapter=full", *LEARNING)
    assert tuned["mrr@10"] > 0.9 > base["mrr@10"] + 0.2
    assert tuned["accuracy"] > 0.9
    samples: dict[str, dict[str, list[str]]] = {}
    for row in given(lab):
        found = samples.setdefault(row["query"], {"positive": [], "negative": []})
        if kind == "triplet":
            found["positive"].append(row["positive"])
            found["negative"] += row["negative"]
        else:
            found["positive" if row["label"] else "negative"].append(row["passage"])
    judge = CrossEncoderRerankingEvaluator(
        [{"query": q, **texts} for q, texts in samples.items()], write_csv=False, show_progress_bar=False
    )
    theirs = judge(CrossEncoder(str(run.folder)))
    assert tuned["mrr@10"] == pytest.approx(theirs["mrr@10"], abs=0.02)
    assert tuned["ndcg@10"] == pytest.approx(theirs["ndcg@10"], abs=0.02)


@pytest.mark.parametrize("seed", range(5))
def test_order_is_measured_as_sentence_transformers_does(seed: int) -> None:
    chance = np.random.default_rng(seed)
    labels, numbers = (chance.random(15) > 0.8).astype(float), chance.random(15)
    labels[chance.integers(15)] = 1.0
    judge = CrossEncoderRerankingEvaluator([], at_k=10)
    mrr, ndcg, _ = judge.compute_metrics(labels, numbers)
    order, found = reordered(labels.tolist(), numbers.tolist())
    assert found == {"mrr@10": pytest.approx(mrr), "ndcg@10": pytest.approx(ndcg)}
    assert order == np.argsort(-numbers).tolist()


def test_numbers_that_are_all_alike_earn_nothing() -> None:
    """What is right stands last among equals."""
    order, found = reordered([1.0, 0.0, 0.0], [0.5, 0.5, 0.5])
    assert (order, found) == ([1, 2, 0], {"mrr@10": 1 / 3, "ndcg@10": 0.5})
    _, graded = reordered([0.25, 1.0, 0.5], [3.0, 2.0, 1.0])
    dcg, best = 0.25 + 1 / np.log2(3) + 0.5 / 2, 1 + 0.5 / np.log2(3) + 0.25 / 2
    assert graded == {"mrr@10": 0.5, "ndcg@10": pytest.approx(dcg / best)}


@QUIET
def test_the_loss_is_that_of_sentence_transformers() -> None:
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    theirs = CrossEncoder(str(labs.encoder()), num_labels=1, device="cpu")
    queries, passages = ["a good day", "the", "fever"], ["the film", "a cold day with gout", "no"]
    labels = [1.0, 0.0, 0.25]
    wanted = of_pairs(tokenizer)
    coded = [dict(tokenizer(q, p)) for q, p in zip(queries, passages, strict=True)]
    items = [{"rows": [row | {"labels": [label]}]} for row, label in zip(coded, labels, strict=True)]
    for rows in (items, [*items, {"rows": wanted.blank}]):
        batch = wanted.collate(rows)
        batch.pop("filler")
        ours = wanted.loss(theirs.model.eval(), batch, 0.0) / wanted.count(batch)
        loss = BinaryCrossEntropyLoss(theirs)([queries, passages], torch.tensor(labels))
        assert float(ours.detach()) == pytest.approx(float(loss.detach()), rel=1e-5)


@QUIET
@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_what_is_saved_gives_the_same_numbers_in_a_cross_encoder(adapter: str, tmp_path: Path) -> None:
    """Cut as they were cut in training; and in Transformers' pipeline, where the whole model was trained."""
    lab = labs.passages(tmp_path, kind="label")
    run = lab.run(f"adapter={adapter}", "task.max_length=16", *SHORT)
    train(run)
    task, ours = task_of(run), task_of(run).load(run, tuned=run.folder)
    long = {"query": "a good day", "passage": "very cold film " * 8, "label": 0.0}
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*given(lab), long]))
    other = lab.run(f"adapter={adapter}", "task.max_length=16", *SHORT)
    pairs = [(row["query"], row["passage"]) for row in given(lab)]
    scored = task.score(other, ours, held_out(other))
    model = CrossEncoder(str(run.folder), num_labels=1)
    theirs = model.predict(pairs, show_progress_bar=False)
    assert theirs.min() > 0
    assert theirs.max() < 1
    assert float(scored[-1].answer) == pytest.approx(theirs[-1], abs=1e-3)
    loss = -np.mean([np.log(n if row["label"] else 1 - n) for n, row in zip(theirs, given(lab), strict=True)])
    assert summary(scored, task.formulas(other))["loss"] == pytest.approx(loss, rel=1e-4)
    best = {q: max((float(n), p) for (r, p), n in zip(pairs, theirs, strict=True) if r == q)[1] for q, _ in pairs[:-1]}
    assert all(best[s.prompt[0]["content"]] == s.answer for s in scored[:-1])
    if adapter == "full":
        pipe: Any = pipeline("text-classification", model=str(run.folder))
        said = [pipe({"text": q, "text_pair": p})["score"] for q, p in pairs[:4]]
        assert said == pytest.approx(theirs[:4].tolist(), abs=1e-5)
    else:
        assert any("classifier" in name for name in weights_of(run.folder))


@QUIET
def test_grades_are_measured_by_their_order(tmp_path: Path) -> None:
    lab = labs.passages(tmp_path, kind="graded", rows=192)
    run, rows, base, tuned = learned(lab, "adapter=full", *LEARNING)
    assert set(tuned) == {"loss", "spearman", "pearson", "ndcg@10", "mrr@10"}
    assert tuned["spearman"] > base["spearman"] + 0.2
    said = CrossEncoder(str(run.folder)).predict([(row["query"], row["passage"]) for row in given(lab)], show_progress_bar=False)
    assert tuned["spearman"] == pytest.approx(stats.spearmanr(said, [row["label"] for row in given(lab)]).statistic, abs=2e-3)
    audit = read_json(run.stage_folder("prepare") / "audit.json")
    assert audit["labels"] == {"1.0": 96, "0.2": 96}
    assert sum(row.tokens for row in rows) == len(given(lab))


@QUIET
def test_a_run_from_the_command_line_to_the_hub_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = labs.passages(tmp_path, kind="triplet", rows=96)
    assert tune(lab, "recipe=small", "launcher=inline", "adapter=full", *LEARNING) == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    published = folder / "published"
    card = (published / "README.md").read_text(encoding="utf-8")
    assert "library_name: sentence-transformers" in card
    assert "pipeline_tag: text-ranking" in card
    assert "CrossEncoder(" in card
    assert len(cards.printed(folder, {'["…", "…"]': '["a film", "a day"]'}).splitlines()) == 2
    assert {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"} <= {p.name for p in published.iterdir()}
    assert read_json(folder / "audit.json")["labels"] == {"does not fit": 288, "fits": 96}
    capsys.readouterr()
    row = given(lab)[0]
    query, right, texts = row["query"], row["positive"], [*row["negative"], row["positive"]]
    assert tune(lab, "try", "small", query, f"passages={' | '.join(texts)}", "--json") == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found[0]["passage"] == right
    assert len(found) == len(texts)
    theirs = CrossEncoder(str(published), num_labels=1).rank(query, texts, return_documents=True)
    assert [entry["passage"] for entry in found] == [entry["text"] for entry in theirs]
    assert [entry["score"] for entry in found] == pytest.approx([float(entry["score"]) for entry in theirs], abs=1e-3)
    (tmp_path / "hits.txt").write_text("\n".join(texts), encoding="utf-8")
    assert tune(lab, "try", "small", query, "passages=@hits.txt") == 0
    assert capsys.readouterr().out.splitlines()[-len(texts)].endswith(right)
    monkeypatch.setattr("sys.stdin", Terminal("\n".join([*texts, "", query, "", ""])))
    assert tune(lab, "try", "small") == 0
    assert re.findall(r"[01]\.\d+  (.+)", capsys.readouterr().out)[0] == right
    assert "MRR@10" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_row_as_it_is_seen_and_cut(tmp_path: Path) -> None:
    lab = labs.passages(tmp_path, kind="triplet")
    rows = [row | {"positive": " ".join([row["positive"]] * 9)} for row in given(lab, "train")[:5]] + given(lab, "train")[5:]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = lab.run("task.max_length=12", "data.overlong=drop")
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    audit = read_json(run.stage_folder("prepare") / "audit.json")
    assert (audit["rows"], audit["rows_dropped"]) == (48 * 4 - 5, 5)
    assert audit["labels"] == {"does not fit": 144, "fits": 43}
    shown = task_of(run).show(run, split(run)[0], 0)
    assert [part["text"] for part in shown["segments"] if part["trained"]] == ["1\n", "0\n", "0\n", "0\n"]


def test_passages_that_all_fit_and_rows_that_are_others(tmp_path: Path) -> None:
    lab = labs.passages(tmp_path)
    rows = given(lab, "train")
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row | {"label": 1}) + "\n" for row in rows))
    run = lab.run()
    with pytest.raises(TuneError, match="every passage has the label `fits`") as caught:
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert caught.value.code == GATE
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": "a day", "label": 1}) + "\n" for _ in rows))
    run = lab.run()
    with pytest.raises(TuneError, match="one text alone"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"query": "a day", "answer": "no", "label": 1}) + "\n" for _ in rows))
    run = lab.run()
    with pytest.raises(TuneError, match=r"learns from rows of {query: …, passage: …, label: …}") as caught:
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert "data.columns={query: …, passage: …, label: …}" in str(caught.value.problems[0].fix)
    task_of(run).check(lab.run("data.columns={passage: answer}"), split(run)[0])


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("adapter=prompt", "only known to us for models that write"),
        ("data.streaming=true", "has no use for `data.streaming`"),
        ("data.overlong=split", "has no use for `data.overlong`"),
        ("eval.metrics=[json]", "has no use for `eval.metrics`"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        labs.passages(tmp_path).plan(override)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Of the last step of an epoch some places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.eval_steps=4")
    two, one = by_two_and_by_one(labs.passages(tmp_path, rows=45), *more)
    assert two == pytest.approx(one, rel=1e-4)


def test_a_query_is_held_out_with_all_its_passages(tmp_path: Path) -> None:
    """Else it is learned and measured both, and ranked among few; also where its column has another name."""
    lab = labs.passages(tmp_path, rows=96)
    lines = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    named = [{"ask": f"{row['query']} {index // 4}", **{k: row[k] for k in ("passage", "label")}} for index, row in enumerate(lines)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in named), encoding="utf-8")
    run = lab.run("data.eval_path=null", "data.eval_fraction=0.25", "data.columns={query: ask}")
    train, apart = split(run)
    learned, measured = ({row["ask"] for row in rows} for rows in (train, apart))
    assert not learned & measured
    assert (len(learned), len(measured), len(apart)) == (18, 6, 24)
