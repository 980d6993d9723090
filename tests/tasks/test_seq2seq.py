"""`task: seq2seq`, `translate`, `summarize`: what is learned, saved, measured and refused, over a tiny T5 and a tiny BART."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from tests.lab import Lab, log_of, task_of, train, weights_of
from tests.tasks import cards
from tuner import cli
from tuner.data.splits import held_out, split
from tuner.errors import GATE, TuneError
from tuner.model.written import of_written, start_of, targets
from tuner.runs import read_json

ENGLISH, GERMAN = ("one", "two", "red", "big", "dog", "cat"), ("eins", "zwei", "rot", "groß", "Hund", "Katze")
RECIPE = """\
# small — a test
defaults: [{task: translate}, {adapter: full}]
model: {id: MODEL, dtype: float32}
task: {prefix: "say: "}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 16, learning_rate: 1e-2, precision: fp32, save_steps: 0, num_train_epochs: 16}
eval: {metrics: [bleu, chrf, rouge, exact_match], max_new_tokens: 12, bootstrap_samples: 100}
hardware: {device: cpu}
"""


@cache
def model_of(family: str) -> Path:
    """A tiny random T5 or BART over a tokenizer of words, made once in a test session."""
    folder = Path(mkdtemp(prefix=f"{family}-"))
    words = ["<pad>", "</s>", "<unk>", "say", ":", *ENGLISH, *GERMAN]
    raw = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    set_seed(0)
    shared: dict[str, Any] = {"vocab_size": len(words), "d_model": 32, "dropout_rate": 0.0, "pad_token_id": 0, "eos_token_id": 1}
    if family == "t5":
        T5ForConditionalGeneration(
            T5Config(**shared, d_kv=8, d_ff=64, num_layers=2, num_heads=4, decoder_start_token_id=0, dtype="float32")
        ).save_pretrained(folder)
    else:
        sizes = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (("layers", 2), ("attention_heads", 4))}
        ffn = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "max_position_embeddings": 64, "dropout": 0.0, "init_std": 0.2}
        made = BartForConditionalGeneration(
            BartConfig(**shared, **sizes, **ffn, bos_token_id=1, decoder_start_token_id=1, forced_eos_token_id=None, dtype="float32")
        )
        made.generation_config.num_beams = 4  # as models that were published have it
        made.save_pretrained(folder)
    return folder


def lab_of(folder: Path, family: str = "t5", *, rows: int = 96) -> Lab:
    """A project whose rows are words and their translations, word by word."""
    (folder / "recipes").mkdir(parents=True)
    text = RECIPE.replace("MODEL", str(model_of(family))).replace("FOLDER", str(folder))
    (folder / "recipes" / "small.yaml").write_text(text, encoding="utf-8")
    for name, count, seed in (("train", rows, 1), ("eval", 16, 2)):
        chance = random.Random(seed)
        with (folder / f"{name}.jsonl").open("w", encoding="utf-8") as stream:
            for _ in range(count):
                chosen = sorted(chance.sample(range(len(ENGLISH)), k=chance.randint(3, 5)))
                both = {lang: " ".join(words[i] for i in chosen) for lang, words in (("en", ENGLISH), ("de", GERMAN))}
                stream.write(json.dumps({"translation": both}) + "\n")
    return Lab(folder)


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """BLEU rises from nothing; the result loads in plain Transformers and writes what was measured."""
    lab = lab_of(tmp_path)
    with contextlib.chdir(lab.folder):
        assert cli.main(["recipe=small", "launcher=inline"]) == 0
        printed = capsys.readouterr().out
        (folder,) = (lab.folder / "outputs" / "small").iterdir()
        assert cli.main(["try", "small", "two red dog", "--json"]) == 0
        said = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = read_json(folder / "metrics.json")
    assert found["base"]["bleu"] < 5
    assert found["tuned"]["bleu"] > 50, found["tuned"]
    assert found["tuned"]["chrf"] > 60
    assert found["tuned"]["rougeL"] > found["base"]["rougeL"] + 0.2
    assert found["intervals"]["bleu"][0] > 20
    assert found["verdicts"]["bleu"] == "better"
    assert "bleu" in printed
    assert said["tuned"] != said["base"]
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: translation" in card
    assert 'tokenizer("say: " + "…"' in card
    assert "loss on the targets" in card
    assert cards.printed(folder, {"…": "two red dog"}) == said["tuned"]
    plain: Any = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer("say: two red dog", return_tensors="pt")
    assert tokenizer.decode(plain.generate(**inputs, max_new_tokens=12, do_sample=False)[0], skip_special_tokens=True) == said["tuned"]


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_an_adapter_loads_in_plain_peft(family: str, tmp_path: Path) -> None:
    """The adapter alone moved; plain PEFT gives the tuned model's logits and Transformers' own loss is ours."""
    run = lab_of(tmp_path, family).run("adapter=lora", "trainer.max_steps=4", "trainer.eval_steps=2")
    before = {name: p.clone() for name, p in task_of(run).load(run).named_parameters()}
    train(run)
    assert {"lora_A", "lora_B"} == {part for name in weights_of(run.folder) for part in name.split(".") if part.startswith("lora")}
    assert read_json(run.folder / "adapter_config.json")["task_type"] == "SEQ_2_SEQ_LM"
    assert [e for e in log_of(run.folder) if "eval_loss" in e]
    ours: Any = task_of(run).load(run, tuned=run.folder)
    base_weights = {n.removeprefix("base_model.model.").replace(".base_layer", ""): p for n, p in ours.named_parameters()}
    assert all(torch.equal(base_weights[name], value) for name, value in before.items())
    plain: Any = AutoPeftModelForSeq2SeqLM.from_pretrained(run.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(run.folder)
    rows = [("say: one two big", "eins zwei groß"), ("say: red", "rot")]
    inputs = tokenizer([a for a, _ in rows], return_tensors="pt", padding=True)
    labels = tokenizer([b for _, b in rows], return_tensors="pt", padding=True)["input_ids"]
    labels[labels == tokenizer.pad_token_id] = -100
    objective = of_written(start_of(ours), tokenizer)
    batch = objective.collate([{"rows": [{"input_ids": tokenizer(a)["input_ids"], "labels": tokenizer(b)["input_ids"]}]} for a, b in rows])
    assert batch.pop("filler") == -int((labels != -100).sum())
    with torch.no_grad():
        theirs = plain(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels)
        assert torch.allclose(theirs.loss, objective.loss(ours, batch, 0.0) / objective.count(batch), atol=1e-5)
        base: Any = task_of(run).load(run)
        assert not torch.allclose(theirs.loss, objective.loss(base, batch, 0.0) / objective.count(batch), atol=1e-4)


def test_what_is_written_does_not_depend_on_the_batch(tmp_path: Path) -> None:
    """Greedily, whatever the model's own settings say; they are as they were."""
    model: Any = BartForConditionalGeneration.from_pretrained(model_of("bart")).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_of("bart"))
    sources = [tokenizer(text)["input_ids"] for text in ("one", "big red dog cat two one", "cat dog")]
    together = targets(model, tokenizer, sources, max_new_tokens=6, batch_size=3)
    assert together == targets(model, tokenizer, sources, max_new_tokens=6, batch_size=1)
    alone = model.generate(torch.tensor(sources[1:2]), num_beams=1, do_sample=False, max_new_tokens=6)
    assert tokenizer.decode(alone[0], skip_special_tokens=True).strip() == together[1]
    assert model.generation_config.num_beams == 4


@pytest.mark.parametrize(
    ("row", "overrides", "expected"),
    [
        ({"source": "one", "target": "eins"}, (), ["one", "eins"]),
        ({"translation": {"en": "one", "de": "eins"}}, ("task.source_lang=de",), ["eins", "one"]),
        ({"document": "one", "summary": "eins"}, ("task=summarize",), ["one", "eins"]),
        ({"dialogue": "one", "summary": "eins", "id": "1"}, ("task=summarize",), ["one", "eins"]),
        ({"article": "one", "highlights": "eins"}, ("task=summarize",), ["one", "eins"]),
        ({"prompt": "one", "response": "eins"}, ("task=seq2seq",), ["one", "eins"]),
    ],
)
def test_layouts(row: dict[str, Any], overrides: tuple[str, ...], expected: list[str], tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    run = lab.run(*overrides)
    shown = task_of(run).show(run, split(run)[0], 0)
    assert [s["text"].removeprefix("say : ").removesuffix(" </s>") for s in shown["segments"]] == expected
    assert [s["trained"] for s in shown["segments"]] == [False, True]


@pytest.mark.parametrize(
    ("row", "overrides", "what"),
    [
        ({"source": "one", "target": " "}, (), "the target is empty"),
        ({"translation": {"en": "one", "de": "eins"}}, ("task.target_lang=fr",), "has no `fr`"),
        ({"translation": {"en": "a", "de": "b", "fr": "c"}}, (), "name two with"),
        ({"translation": "one"}, (), "no mapping of languages"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}] * 2}, (), "has the turns"),
        ({"text": "one", "label": "eins"}, (), "learns from texts and what is written of them"),
    ],
)
def test_a_row_that_does_not_fit_is_named(row: dict[str, Any], overrides: tuple[str, ...], what: str, tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    (tmp_path / "eval.jsonl").write_text(json.dumps(row) + "\n")
    run = lab.run(*overrides)
    with pytest.raises(TuneError, match=what) as caught:
        task_of(run).check(run, held_out(run))
    assert "eval.jsonl:1" in caught.value.problems[0].where
    assert "task.labels" not in caught.value.problems[0].fix


def test_a_target_that_is_cut_teaches_no_end(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    run = lab.run("task.max_target_length=5", "task.max_length=8")
    folder = run.stage_folder("prepare")
    task_of(run).prepare(run, split(run)[0], folder)
    audit = read_json(folder / "audit.json")
    ids, ends = np.load(folder / "ids.npy"), np.load(folder / "ends.npy")
    assert audit["targets_truncated"] == int((ids[ends - 1] != 1).sum()) > 0
    assert any("targets are cut" in text for text in lab.told)
    every = lab.run("task.max_target_length=3")
    with pytest.raises(TuneError, match="every target is longer") as caught:
        task_of(every).prepare(every, split(every)[0], every.stage_folder("prepare"))
    assert caught.value.code == GATE


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("data.system=hello",), "data.system"),
        (("data.overlong=split",), "data.overlong"),
        (("adapter=prompt",), "adapter"),
        (("adapter=pissa",), "adapter.init_lora_weights"),
        (("model.add_tokens=[a]",), "model.add_tokens"),
        (("trainer.padding_free=always",), "trainer.padding_free"),
        (("eval.metrics=[tool_calls]",), "does not learn"),
    ],
)
def test_what_it_has_no_use_for_is_refused(overrides: tuple[str, ...], key: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError) as caught:
        lab_of(tmp_path).plan(*overrides)
    assert key in str(caught.value)


def test_formats_that_t5_cannot_be_computed_in_are_refused(tmp_path: Path) -> None:
    run = lab_of(tmp_path).run("model.dtype=float16")
    with pytest.raises(TuneError, match="beyond the numbers of fp16"):
        task_of(run).possible(run)
    fine = lab_of(tmp_path / "other", "bart").run()
    task_of(fine).possible(fine)


def test_a_training_that_was_cut_off_ends_as_the_other(tmp_path: Path) -> None:
    """Bitwise, from the middle of an epoch whose rows are grouped by length."""
    lab = lab_of(tmp_path)
    options = ("adapter=lora", "trainer.max_steps=9", "trainer.save_steps=4", "eval.enabled=false", "hub.enabled=false")
    whole, cut = lab.run("name=whole", *options), lab.run("name=cut", *options)
    train(whole)
    train(cut)
    for later in (cut.folder / "checkpoints").glob("checkpoint-[89]"):
        later.rename(later.with_name(f"gone-{later.name}"))
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut", *options))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_tokenizer_without_an_end_ends_as_the_model_does(tmp_path: Path) -> None:
    """BERT's tokenizer closes every text, and calls that by another name: Chinese T5 and BART have it."""
    lab = lab_of(tmp_path / "lab")
    folder = Path(shutil.copytree(model_of("t5"), tmp_path / "t5"))
    values = read_json(folder / "tokenizer_config.json")
    (folder / "tokenizer_config.json").write_text(json.dumps({k: v for k, v in values.items() if k != "eos_token"}), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder).eos_token is None
    run = lab.run(f"model.id={folder}", "trainer.max_steps=2")
    train(run)
    assert AutoTokenizer.from_pretrained(run.folder).eos_token == "</s>"
