"""`task: qa`: places of answers, windows, the loss beside Transformers' own, SQuAD's scores, what is saved and refused."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertConfig, BertForQuestionAnswering, PreTrainedTokenizerFast

from tests.lab import Lab, by_two_and_by_one, log_of, task_of, tiny_tokenizer, train, weights_of
from tests.tasks import cards, labs
from tests.tasks.test_classify import tune
from tuner.data.answers import Placed, placed, read
from tuner.data.layout import recognise
from tuner.data.splits import held_out, split
from tuner.data.store import LabelRows
from tuner.data.turns import Misfit
from tuner.data.windows import windows
from tuner.errors import GATE, TuneError
from tuner.eval.scores import summary
from tuner.eval.spans import exact, f1, likely
from tuner.model.objectives import of_spans
from tuner.runs import read_json
from tuner.schema.data import Data
from tuner.schema.passages import Qa

CONTEXT = "Ada Lovelace wrote it in 1843, in London; 1843 was long ago."


def places(**row: Any) -> list[str]:
    """The answers of a row, by where they are found to stand."""
    example = read({"question": "When?", "context": CONTEXT, **row})
    return [CONTEXT[begin:end] for begin, end in placed(example).spans]


@pytest.mark.parametrize(
    "row",
    [
        {"answers": {"text": ["1843"], "answer_start": [25]}},
        {"answers": {"text": ["1843", "1843"], "answer_start": [25, 25]}},
        {"answers": [{"text": "1843", "answer_start": 25}]},
        {"answers": json.dumps({"text": ["1843"], "answer_start": [25]})},
        {"answers": {"text": [" 1843"], "answer_start": [24]}},
        {"answers": {"text": ["1843"], "answer_start": ["25"]}},
        {"answers": ["1843"]},
        {"answer": "1843"},
        {"answer": "1843", "answer_start": 25.0},
    ],
)
def test_answers_are_read_however_they_are_laid_out(row: dict[str, Any]) -> None:
    assert set(places(**row)) == {"1843"}
    example = read({"question": "When?", "context": CONTEXT, **row})
    assert placed(example).spans[0] == (25, 29)


@pytest.mark.parametrize("row", [{"answers": {"text": [], "answer_start": []}}, {"answers": []}, {"answer": ""}, {"answer": None}])
def test_a_row_may_have_no_answer(row: dict[str, Any]) -> None:
    assert places(**row) == []


def test_an_answer_that_is_a_little_off_is_mended_where_it_is_clear() -> None:
    example = read({"question": "Where?", "context": CONTEXT, "answers": {"text": ["London"], "answer_start": [30]}})
    assert placed(example) == Placed(spans=[(34, 40)], mended=1)
    twice = read({"question": "When?", "context": CONTEXT, "answers": ["1843"]})
    assert placed(twice) == Placed(spans=[(25, 29)], guessed=1)
    part = read({"question": "?", "context": "12 of 2", "answer": "2"})
    assert placed(part).spans == [(6, 7)], "a whole word rather than a part of one"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"answers": {"text": ["1843"], "answer_start": [30]}}, r"said to begin at character 30.*it stands at 25, 42"),
        ({"answers": {"text": ["Ada"], "answer_start": [50]}}, r"'Ada' is said to begin at character 50.*it stands at 0"),
        ({"answers": {"text": ["1843"], "answer_start": [999]}}, "the context has no such place"),
        ({"answers": ["Paris"]}, "'Paris' does not stand in its context"),
        ({"answers": [7]}, "an answer is a number, not text"),
        ({"answers": {"text": ["Ada"], "answer_start": ["here"]}}, "`answer_start` is no number"),
        ({"answers": {"text": ["Ada"], "answer_start": [0.5]}}, "counts characters"),
        ({"answers": "{no"}, "no JSON"),
        ({"question": " "}, "the question is empty"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(row: dict[str, Any], what: str) -> None:
    with pytest.raises(Misfit, match=what):
        places(**({"answers": []} | row))


def test_a_context_makes_other_rows_of_a_question_and_its_answer() -> None:
    row = {"question": "q", "answer": "a", "id": 1}
    assert str(recognise(row, Data()).shape) == "question_answer"
    assert str(recognise(row | {"context": "a b"}, Data()).shape) == "answers"
    assert str(recognise({"question": "q", "context": "a b", "answers": {"text": [], "answer_start": []}}, Data()).shape) == "answers"
    assert str(recognise({"instruction": "q", "context": "a b", "response": "a"}, Data()).shape) == "alpaca"


def spaced_tokenizer() -> PreTrainedTokenizerFast:
    """Pieces that begin with the space before their word, as SentencePiece's."""
    vocabulary = [
        ("[UNK]", 0.0),
        ("[CLS]", 0.0),
        ("[SEP]", 0.0),
        *((c, -4.0) for c in "▁abcdehilmnorstuvwxyz0123456789.,;🙂北京大学"),
        ("▁wrote", -1.0),
    ]
    raw = Tokenizer(models.Unigram([*vocabulary, ("[PAD]", 0.0)], unk_id=0))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=raw, cls_token="[CLS]", sep_token="[SEP]", pad_token="[PAD]", unk_token="[UNK]")


@pytest.mark.parametrize("make", [lambda: AutoTokenizer.from_pretrained(labs.encoder()), tiny_tokenizer, spaced_tokenizer])
def test_every_window_gives_its_answer_back(make: Any) -> None:
    """Letter by letter, by bytes (several of one character), by pieces that begin with a space; whatever the text is."""
    tokenizer = make()
    words = "a very  fine day with 🙂 北京大学, gout\n and wrote 1843; the cold   unhappys film"
    text = f"{words} {words}"
    found = {
        f: [m for m in range(len(text)) if text.startswith(f, m)] for f in ("gout", "very  fine", "🙂", "京大", "unhappys film", "1843")
    }
    examples = [{"question": "a day ", "context": text, "answers": [(f, at)]} for f, starts in found.items() for at in starts]
    spans = [placed(example) for example in examples]
    task = Qa(max_length=32, stride=16) if tokenizer is not tiny_tokenizer() else Qa(max_length=64, stride=32)
    coded = list(windows(examples, spans, tokenizer, task))
    answered = [w for w in coded if w.answered]
    assert len(coded) > len(examples)
    assert {w.index for w in answered} == set(range(len(examples))), "the stride is longer than any answer: it stands whole in a window"
    for window in answered:
        first, last = window.label
        said = text[window.offsets[first, 0] : window.offsets[last, 1]]
        assert said.strip() == examples[window.index]["answers"][0][0]
    for window in coded:
        assert len(window.ids) <= task.max_length
        inside = window.offsets[window.offsets[:, 0] >= 0]
        begin, end = spans[window.index].spans[0]
        whole = inside[0, 0] <= begin and inside[-1, 1] >= end
        assert window.answered == whole
        assert whole or (window.label == window.nowhere).all()


def test_the_loss_is_transformers_own() -> None:
    """Row by row, and so in a batch of rows of one length; padding changes nothing."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    config = BertConfig(vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = BertForQuestionAnswering(config).eval()
    pairs = [("a film", "the very good day"), ("the day", "a cold film with a very bad fever"), ("a day", "the no good film")]
    labels = [[5, 6], [8, 9], [0, 0]]
    wanted = of_spans(tokenizer)
    coded = [tokenizer(*pair) for pair in pairs]
    items = [{"rows": [dict(row) | {"labels": label}]} for row, label in zip(coded, labels, strict=True)]

    def theirs(rows: list[int]) -> float:
        batch = {name: torch.tensor([coded[i][name] for i in rows]) for name in ("input_ids", "token_type_ids", "attention_mask")}
        starts, ends = (torch.tensor([labels[i][k] for i in rows]) for k in (0, 1))
        return float(model(**batch, start_positions=starts, end_positions=ends).loss.detach())

    def ours(rows: list[dict[str, Any]]) -> float:
        batch = wanted.collate(rows)
        batch.pop("filler")
        return float((wanted.loss(model, batch, 0.0) / wanted.count(batch)).detach())

    assert ours([items[0], items[2]]) == pytest.approx(theirs([0, 2]), rel=1e-5)
    alone = [theirs([i]) for i in range(3)]
    assert ours(items) == pytest.approx(np.mean(alone), rel=1e-5)
    assert ours([*items, {"rows": wanted.blank}]) == pytest.approx(np.mean(alone), rel=1e-5)


@pytest.mark.parametrize(
    ("said", "true", "same", "share"),
    [
        ("the Eiffel Tower", ["Eiffel tower."], 1, 1.0),
        ("Tower of London", ["The Tower"], 0, 0.5),
        ("in 1843", ["1843", "the year 1843"], 0, 2 / 3),
        ("U.S. a.k.a. an America", ["US aka America"], 1, 1.0),
        ("state-of-the-art", ["state of the art"], 0, 0.0),
        ("a", ["the"], 1, 1.0),
        ("", [""], 1, 1.0),
        ("Ada", [""], 0, 0.0),
        ("", ["Ada"], 0, 0.0),
        ("one two two", ["two two three"], 0, 2 / 3),
        ("北京大学", ["北京大学。"], 1, 1.0),
        ("北京", ["北京大学"], 0, 2 / 3),
        ("在北京 2008年", ["北京2008年"], 0, 8 / 9),
        ("东京 Tower", ["东京tower"], 1, 1.0),
    ],
)
def test_scores_are_those_of_squad_and_by_characters_in_chinese(said: str, true: list[str], same: int, share: float) -> None:
    """Worked out by hand from SQuAD's definition; "a" and "the" are both no word at all."""
    assert exact(said, true) == same
    assert f1(said, true) == pytest.approx(share)


def test_the_best_answer_is_looked_for_in_all_windows() -> None:
    """The best sum of all spans that are short enough; nothing is as likely as the window where it is least likely."""
    tokenizer = AutoTokenizer.from_pretrained(labs.encoder())
    context = "a very good day with gout and the very cold film with fever no day"
    coded = list(windows([{"question": "a day", "context": context}], [Placed(spans=[])], tokenizer, Qa(max_length=14, stride=4)))
    assert len(coded) > 1
    chance = np.random.default_rng(0)
    outputs = [chance.normal(size=(len(w.ids), 2)).astype(np.float32) for w in coded]
    for nothing in (False, True):
        sums: dict[tuple[int, int], float] = {(0, 0): min(float(o[0].sum()) for o in outputs)} if nothing else {}
        for window, logits in zip(coded, outputs, strict=True):
            inside = [t for t, (b, _) in enumerate(window.offsets) if b >= 0]
            for a in inside:
                for b in range(a, min(a + 3, inside[-1] + 1)):
                    key = (int(window.offsets[a, 0]), int(window.offsets[b, 1]))
                    sums[key] = max(sums.get(key, -99.0), float(logits[a, 0] + logits[b, 1]))
        found = likely(coded, outputs, context, 3, nothing=nothing)
        (begin, end), best = max(sums.items(), key=lambda item: item[1])
        assert (found[0].begin, found[0].end) == (begin, end)
        assert found[0].score == pytest.approx(best, abs=1e-5)
        assert sum(one.probability for one in found) == pytest.approx(1.0)
        assert all(len(tokenizer.tokenize(one.text)) <= 3 for one in found)
        assert any(one.text == "" for one in found) == nothing


class Terminal(io.StringIO):
    """What a person types."""

    def isatty(self) -> bool:
        return True


def test_a_run_from_the_command_line_to_the_card(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter learns: exact match rises; it loads in plain PEFT, and the card's code answers as `tune try` does."""
    lab = labs.answers(tmp_path, rows=160)
    assert tune(lab, "recipe=small", "launcher=inline", "trainer.num_train_epochs=8", "trainer.batch_size=16") == 0
    (folder,) = (lab.folder / "outputs" / "small").iterdir()
    found = read_json(folder / "metrics.json")
    assert set(found["tuned"]) == {"loss", "exact_match", "f1"}
    assert found["tuned"]["exact_match"] > 0.8 > found["base"]["exact_match"] + 0.5
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: question-answering" in card
    assert any("qa_outputs" in name for name in weights_of(folder))
    question, context = "the day", "the gout with a very warm no"
    capsys.readouterr()
    assert tune(lab, "try", "small", question, f"context={context}", "--json") == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said[0]["answer"] == context[said[0]["start"] : said[0]["end"]] == "very warm"
    assert 1.0 >= said[0]["score"] > said[1]["score"] > 0.0
    assert cards.printed(folder, {'"…", "…"': f"{question!r}, {context!r}"}) == "very warm"
    (tmp_path / "story.txt").write_text(context, encoding="utf-8")
    assert tune(lab, "try", "small", question, "context=@story.txt") == 0
    assert "very warm" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(context))
    assert tune(lab, "try", "small", question) == 0
    assert "very warm" in capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", Terminal(f"{context}\n{question}\na film\n\n"))
    assert tune(lab, "try", "small") == 0
    shown = capsys.readouterr().out
    assert shown.index("very warm") < shown.index("gout")
    monkeypatch.setattr("sys.stdin", Terminal())
    assert tune(lab, "try", "small", question) == 2
    assert "`context` is missing" in capsys.readouterr().err
    assert tune(lab, "try", "small", question, "context=@none.txt") == 2
    assert tune(lab, "try", "small", question, "system=x") == 2
    said_of_errors = capsys.readouterr().err
    assert "cannot read the file" in said_of_errors
    assert "settings: context" in said_of_errors


def test_an_adapter_loads_in_plain_peft(tmp_path: Path) -> None:
    """With the types of the tokens, which PEFT's own class for answers leaves out; merged it gives the same."""
    run = labs.answers(tmp_path).run("trainer.max_steps=4", "trainer.save_steps=0")
    train(run)
    ours: Any = task_of(run).load(run, tuned=run.folder)
    inputs = AutoTokenizer.from_pretrained(run.folder)("the day", "the gout with a very warm no", return_tensors="pt")
    torch.manual_seed(5)
    plain: Any = PeftModel.from_pretrained(AutoModelForQuestionAnswering.from_pretrained(labs.encoder(), num_labels=2), run.folder).eval()
    assert any("qa_outputs" in name for name in weights_of(run.folder))
    with torch.no_grad():
        logits = plain(**inputs).start_logits
        assert torch.allclose(logits, ours(**inputs).start_logits, atol=1e-6)
        assert not torch.allclose(logits, plain(**inputs | {"token_type_ids": inputs["token_type_ids"] * 0}).start_logits, atol=1e-3)
        assert not torch.allclose(logits, task_of(run).load(run)(**inputs).start_logits, atol=1e-3)
        assert torch.allclose(logits, plain.merge_and_unload()(**inputs).start_logits, atol=1e-5)


def learned(lab: Lab, *overrides: str) -> tuple[Any, dict[str, float]]:
    """(run, what the tuned model measures)."""
    run = lab.run(*overrides)
    train(run)
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    return run, summary(rows, task_of(run).formulas(run))


def test_that_a_text_does_not_say_is_learned(tmp_path: Path) -> None:
    """All weights; the model says nothing where nothing is to be said, and plain Transformers loads it."""
    lab = labs.answers(tmp_path, rows=240, without=True)
    run, found = learned(lab, "adapter=full", "trainer.num_train_epochs=8", "trainer.batch_size=16")
    assert found["unanswered_accuracy"] > 0.7
    assert found["answered_f1"] > 0.7
    rows = [json.loads(line) for line in (tmp_path / "eval.jsonl").read_text().splitlines()]
    true = [not row["answers"]["text"] for row in rows]
    scored = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    assert [s.reference == "(no answer)" for s in scored] == true
    assert found["unanswered_accuracy"] == pytest.approx(
        np.mean([s.answer == "(no answer)" for s, t in zip(scored, true, strict=True) if t])
    )
    assert AutoModelForQuestionAnswering.from_pretrained(run.folder).config.num_labels == 2
    data = read_json(run.stage_folder("prepare") / "data.json")
    assert data["some_without"] is True
    assert read_json(run.stage_folder("prepare") / "audit.json")["labels"] == {"with the answer": 120, "without it": 120}


def test_a_long_text_is_several_windows(tmp_path: Path) -> None:
    """Counted, learned, and answered from all of them."""
    lab = labs.answers(tmp_path, rows=120)
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for index, row in enumerate(rows):
            before = "no the with a " * (index % 4)
            row["context"] = before + row["context"] + " with no the" * 5
            row["answers"]["answer_start"] = [start + len(before) for start in row["answers"]["answer_start"]]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run, found = learned(lab, "task.max_length=20", "task.stride=8", "adapter=full", "trainer.num_train_epochs=6", "trainer.batch_size=16")
    assert found["exact_match"] > 0.6
    audit = read_json(run.stage_folder("prepare") / "audit.json")
    assert audit["rows"] > audit["answers"]["rows"] == 120
    rows = LabelRows(run.stage_folder("prepare"))
    assert len(rows) == audit["rows"]
    assert max(rows.lengths) == 20
    shown = task_of(run).show(run, split(run)[0], 3)
    assert "windows ──" in shown["segments"][-1]["text"]
    assert [part["text"] for part in shown["segments"] if part["trained"]] == json.loads(
        (tmp_path / "train.jsonl").read_text().splitlines()[3]
    )["answers"]["text"]


def test_files_of_squad_are_read_as_they_are(tmp_path: Path) -> None:
    """Articles of paragraphs of questions; what is wrong is told with the number of the question."""
    lab = labs.answers(tmp_path, without=True)
    for name in ("train", "eval"):
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        articles = []
        for part in (rows[:10], rows[10:]):
            paragraphs = []
            for row in part:
                texts = row["answers"]
                pairs = [{"text": t, "answer_start": s} for t, s in zip(texts["text"], texts["answer_start"], strict=True)]
                one = {"question": row["question"], "id": row["id"], "answers": pairs, "is_impossible": not pairs}
                paragraphs.append({"context": row["context"], "qas": [one | {"plausible_answers": []}, one]})
            articles.append({"title": "a day", "paragraphs": paragraphs})
        (tmp_path / f"{name}.json").write_text(json.dumps({"version": "v2.0", "data": articles}))
    files = (f"data.path={tmp_path}/train.json", f"data.eval_path={tmp_path}/eval.json")
    run, plain = lab.run(*files), lab.run()
    nested, flat = (list(split(r)[0]) for r in (run, plain))
    assert len(nested) == 2 * len(flat)
    for one, other in zip(nested[::2], flat, strict=True):
        assert read(one) == read(other)
        assert one["title"] == "a day"
    assert len(held_out(run)) == 2 * len(held_out(plain))
    content = json.loads((tmp_path / "train.json").read_text())
    content["data"][1]["paragraphs"][0]["qas"][0]["answers"] = [{"text": "nowhere", "answer_start": 0}]
    (tmp_path / "train.json").write_text(json.dumps(content))
    faulty = lab.run(*files)
    with pytest.raises(TuneError, match="does not stand in its context") as caught:
        task_of(faulty).prepare(faulty, split(faulty)[0], faulty.stage_folder("prepare"))
    assert caught.value.problems[0].where.endswith("train.json, row 21")


def test_held_out_loss_is_measured_while_training(tmp_path: Path) -> None:
    run = labs.answers(tmp_path).run("trainer.max_steps=2", "trainer.eval_steps=1", "trainer.save_steps=0")
    train(run)
    measured = [entry["eval_loss"] for entry in log_of(run.folder) if "eval_loss" in entry]
    rows = task_of(run).score(run, task_of(run).load(run, tuned=run.folder), held_out(run))
    assert summary(rows, task_of(run).formulas(run))["loss"] == pytest.approx(measured[-1], rel=1e-4)


def test_longer_answers_than_are_looked_for_are_not_found(tmp_path: Path) -> None:
    lab = labs.answers(tmp_path, rows=96)
    run, _ = learned(lab, "trainer.max_steps=20", "adapter=full")
    short = lab.run("trainer.max_steps=20", "adapter=full", "task.max_answer_length=1")
    rows = task_of(short).score(short, task_of(run).load(run, tuned=run.folder), held_out(short))
    assert {len(row.answer.split()) for row in rows} == {1}


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("task.stride=384", r"`task.stride` \(384\) is not below"),
        ("trainer.label_smoothing_factor=0.1", "an answer is a place in a text"),
        ("data.overlong=drop", "a longer text becomes several windows"),
        ("adapter=prompt", "only known to us for models that write"),
        ("data.streaming=true", "has no use for `data.streaming`"),
    ],
)
def test_what_it_has_no_use_for_is_refused(override: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        labs.answers(tmp_path).plan(override)


def test_a_question_that_leaves_its_text_no_room(tmp_path: Path) -> None:
    run = labs.answers(tmp_path).run("task.max_length=12", "task.stride=8")
    with pytest.raises(TuneError, match=r"the question has 2 tokens: in a window of 12 .* they leave its text 7") as caught:
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert caught.value.problems[0].where.endswith("train.jsonl:1")


def test_rows_that_teach_nothing_and_rows_that_are_others(tmp_path: Path) -> None:
    lab = labs.answers(tmp_path)
    path = tmp_path / "train.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"answers": []}) + "\n" for row in rows))
    run = lab.run()
    with pytest.raises(TuneError, match="no window of 48 rows holds a whole answer") as caught:
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert caught.value.code == GATE
    path.write_text("".join(json.dumps({"question": row["question"], "answer": "a"}) + "\n" for row in rows))
    run = lab.run()
    with pytest.raises(TuneError, match="learns from questions with a text and the answer in it"):
        task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    chat = labs.answers(tmp_path / "chat").run("task=sft")
    with pytest.raises(TuneError, match="`task: sft` learns from conversations") as caught:
        task_of(chat).prepare(chat, split(chat)[0], chat.stage_folder("prepare"))
    assert "`task: qa` learns where the answer stands" in str(caught.value.problems[0].fix)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Of the last step of an epoch some places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.eval_steps=4")
    two, one = by_two_and_by_one(labs.answers(tmp_path, rows=45), *more)
    assert two == pytest.approx(one, rel=1e-4)
