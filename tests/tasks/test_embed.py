"""`task: embed`: losses, vectors and scores beside sentence-transformers' own, what is saved, found and refused, over a tiny BERT."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel, AutoTokenizer

from tests.lab import Lab, by_two, losses_of, task_of, train, weights_of
from tests.tasks import cards, labs
from tuner import cli
from tuner.data.related import TextRows
from tuner.data.splits import held_out, split
from tuner.errors import ENVIRONMENT, GATE, TuneError
from tuner.eval.scores import summary
from tuner.model.embeddings import info_nce, mined, of_likeness
from tuner.runs import read_json
from tuner.schema.task import Embed

QUIET = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # of sentence-transformers' old names


def measured(lab: Lab, *overrides: str) -> tuple[Any, dict[str, float], dict[str, float]]:
    """(run, base, tuned)."""
    run = lab.run(*overrides)
    train(run)
    task = task_of(run)
    rows = [task.score(run, task.load(run, tuned=tuned), held_out(run)) for tuned in (None, run.folder)]
    base, tuned = (summary(each, task.formulas(run)) for each in rows)
    return run, base, tuned


def given(lab: Lab, name: str = "eval") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (lab.folder / f"{name}.jsonl").read_text().splitlines()]


@QUIET
@pytest.mark.parametrize("adapter", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_likeness_is_learned_and_loads_in_sentence_transformers(adapter: str, tmp_path: Path) -> None:
    """Spearman's correlation goes up, is scipy's over the vectors of the library, and so at each length."""
    lab = labs.alike(tmp_path)
    run, base, tuned = measured(lab, f"adapter={adapter}", "trainer.num_train_epochs=4", "task.matryoshka_dims=[32,8]")
    assert tuned["spearman"] > base["spearman"] + 0.3
    plain = SentenceTransformer(str(run.folder))
    for name, size in (("spearman", 32), ("spearman@8", 8)):
        first, second = (plain.encode([row[key] for row in given(lab)], truncate_dim=size) for key in ("sentence1", "sentence2"))
        near = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
        assert tuned[name] == pytest.approx(stats.spearmanr(near, [row["score"] for row in given(lab)]).statistic, abs=2e-3)
    assert set(tuned) == {"spearman", "spearman@8", "pearson"}
    assert not any("pooler" in name for name in weights_of(run.folder)) if adapter == "lora" else True


@QUIET
def test_what_answers_a_question_is_found(tmp_path: Path) -> None:
    """Scores are those of sentence-transformers' evaluator, for the base and for what was learned."""
    lab = labs.related(tmp_path, rows=96)
    run, base, tuned = measured(lab, "trainer.num_train_epochs=4", "trainer.batch_size=16")
    assert tuned["ndcg@10"] > base["ndcg@10"] + 0.2
    rows = given(lab)
    corpus = {text: text for text in dict.fromkeys(row["positive"] for row in rows)}
    right: dict[str, set[str]] = {}
    for row in rows:
        right.setdefault(row["anchor"], set()).add(row["positive"])
    single = [row for row in rows if len(right[row["anchor"]]) == 1]
    queries = {str(index): row["anchor"] for index, row in enumerate(single)}
    relevant = {index: right[text] for index, text in queries.items()}
    judge = InformationRetrievalEvaluator(queries, corpus, relevant, show_progress_bar=False, write_csv=False)
    found = judge(SentenceTransformer(str(run.folder)))
    task = task_of(run)
    ours = [s for s, row in zip(task.score(run, task.load(run, tuned=run.folder), held_out(run)), rows, strict=True) if row in single]
    for name, key in (("ndcg@10", "cosine_ndcg@10"), ("mrr@10", "cosine_mrr@10"), ("recall@1", "cosine_accuracy@1")):
        assert np.mean([s.scores[name] for s in ours]) == pytest.approx(found[key], abs=1e-6)


@QUIET
@pytest.mark.parametrize("scored", [True, False])
def test_the_loss_is_that_of_sentence_transformers(scored: bool) -> None:
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    texts = [["a good day", "the film"], ["bad film", "no fever"], ["warm", "very cold day with gout"]]
    ids = [[tokenizer(text)["input_ids"] for text in row] for row in texts]
    task, labels = Embed(matryoshka_dims=[32, 8]), [5.0, 1.0, 3.0] if scored else [1.0] * 3
    wanted = of_likeness(task, Pooling(32, pooling_mode="mean"), tokenizer, scored=scored)
    model = AutoModel.from_pretrained(labs.encoder()).eval()
    batch = wanted.collate([{"rows": [{"texts": row, "labels": label}]} for row, label in zip(ids, labels, strict=True)])
    batch.pop("filler")
    ours = (wanted.loss(model, batch, 0.0) / wanted.count(batch)).detach()
    plain = SentenceTransformer(str(labs.encoder()))
    inner = losses.CoSENTLoss(plain) if scored else losses.MultipleNegativesRankingLoss(plain)
    columns = [dict(tokenizer([row[c] for row in texts], padding=True, return_tensors="pt")) for c in range(2)]
    theirs = losses.MatryoshkaLoss(plain.eval(), inner, [32, 8])(columns, torch.tensor(labels))
    assert float(ours) == pytest.approx(float(theirs.detach()), rel=1e-5)
    with_blank = wanted.collate(
        [*({"rows": [{"texts": r, "labels": n}]} for r, n in zip(ids, labels, strict=True)), {"rows": wanted.blank}]
    )
    assert with_blank.pop("filler") == 2
    assert int(wanted.count(with_blank)) == 3
    assert float(wanted.loss(model, with_blank, 0.0).detach() / 3) == pytest.approx(float(ours), rel=1e-5)


def test_the_right_text_of_another_row_is_not_wrong() -> None:
    """Two rows with the same answer, and a row that has fewer texts than another: as if the one were not there, and the other too."""
    torch.manual_seed(0)
    columns = torch.nn.functional.normalize(torch.randn(3, 3, 8), dim=-1)
    columns[1, 1] = columns[0, 1]
    names = torch.tensor([[0, 1, 2], [3, 1, -1], [4, 5, 6]])
    scores = columns[:, 0] @ torch.cat([columns[:, 1], columns[:, 2]]).T * 20
    kept = [[0, 2, 3, 5], [1, 2, 3, 5], [0, 1, 2, 3, 5]]  # of the six texts: the row's own, those of others
    right = [0, 0, 2]
    expected = sum(-torch.log_softmax(scores[i, k], 0)[r] for i, (k, r) in enumerate(zip(kept, right, strict=True))) / 3
    assert float(info_nce(columns, names, 20.0)) == pytest.approx(float(expected), rel=1e-6)


def test_hard_negatives_are_near_and_not_right() -> None:
    vectors = {"q": [1.0, 0.0], "right": [0.9, 0.1], "too near": [0.95, 0.05], "near": [0.7, 0.7], "far": [0.0, 1.0]}
    encode: Any = lambda texts: np.asarray([np.asarray(vectors[t]) / np.linalg.norm(vectors[t]) for t in texts], np.float32)  # noqa: E731
    found = mined(encode, ["q", "q", "far", "far", "far"], ["right", "right", "too near", "near", "far"], 2)
    assert found[0] == ["near", "far"]
    assert "far" not in found[4]


def test_hard_negatives_become_part_of_the_rows(tmp_path: Path) -> None:
    run = labs.related(tmp_path).run("task.hard_negatives=2")
    prepared = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], prepared)
    assert {len(row["rows"][0]["texts"]) for row in TextRows(prepared)} <= {2, 3, 4}  # type: ignore[attr-defined]
    assert "2 negatives" in read_json(prepared / "audit.json")["labels"]
    train(run)


@QUIET
def test_a_run_from_the_command_line_to_the_hub_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = labs.related(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.max_steps=3"]) == 0
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        published = folder / "published"
        assert (published / "1_Pooling" / "config.json").is_file()
        assert (published / "modules.json").is_file()
        card = (published / "README.md").read_text(encoding="utf-8")
        assert "library_name: sentence-transformers" in card
        assert "pipeline_tag: sentence-similarity" in card
        assert cards.printed(folder, {'"…", "…"': '"a film", "a film"'}).startswith("tensor([[1.0000, 1.0000]")
        capsys.readouterr()
        assert cli.main(["try", "small", "good the", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [len(entries) for entries in found.values()] == [5, 5]
    assert "nDCG@10" in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_two_processes_end_an_epoch_with_blank_rows(tmp_path: Path) -> None:
    """Each learns from its own rows, so the losses are others than one process has."""
    folder = by_two(labs.alike(tmp_path, rows=45), "trainer.eval_steps=4")
    assert all(np.isfinite(loss) for loss in losses_of(folder))


def test_memory_that_runs_out_cuts_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("tuner.model.embeddings.vectors", full)
    with pytest.raises(TuneError, match=r"8 rows at once, .*they learn from each other"):
        train(labs.alike(tmp_path).run())


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("task.matryoshka_dims=[8,8]", "lengths of vectors, each once"),
        ("trainer.batch_size=1", "each row of a batch learns from the others"),
        ("trainer.label_smoothing_factor=0.1", "has no labels to smooth"),
        ("adapter=prompt", "only known to us for models that write"),
        ("model.add_tokens=[x]", "has no use for `model.add_tokens`"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        labs.alike(tmp_path).plan(override)


def test_vectors_longer_than_the_models_are_refused(tmp_path: Path) -> None:
    run = labs.alike(tmp_path).run("task.matryoshka_dims=[64]")
    with pytest.raises(TuneError, match="vectors have 32 numbers, and 64 are asked for"):
        task_of(run).possible(run)


def test_held_out_rows_of_another_layout_and_scores_that_are_alike(tmp_path: Path) -> None:
    lab = labs.alike(tmp_path)
    rows = given(lab)
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps({"anchor": r["sentence1"], "positive": r["sentence2"]}) + "\n" for r in rows))
    run = lab.run()
    with pytest.raises(TuneError, match="laid out as triplet, the training rows are not"):
        task_of(run).check(run, held_out(run))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(r | {"score": 1}) + "\n" for r in rows))
    other = lab.run()
    with pytest.raises(TuneError, match="say the same likeness") as caught:
        task_of(other).prepare(other, split(other)[0], other.stage_folder("prepare"))
    assert caught.value.code == GATE


def test_without_sentence_transformers_the_way_to_get_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    run = labs.alike(tmp_path).run()
    with pytest.raises(TuneError, match="needs sentence-transformers") as caught:
        task_of(run).check(run, held_out(run))
    assert caught.value.code == ENVIRONMENT
