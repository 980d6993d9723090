"""Real models on real rows, for minutes: MiniLM on SST-2, NCBI disease and STS 2012, SmolLM2 on Wikipedia. All are `slow`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.tasks import articles, people, tongue
from tests.tasks.real import HEAD, measured, ran, write
from tuner.model.sources import fetch
from tuner.schema.documents import find_option
from tuner.schema.model import Model
from tuner.schema.recipe import from_section

pytestmark = pytest.mark.slow
DIGITS = "data: {path: train.jsonl, eval_path: dev.jsonl}\ntrainer: {learning_rate: 1e-3, max_steps: 24, batch_size: 8}\n"
READ = "data: {path: train.txt, eval_path: dev.txt}\n"


def test_sentiment(tmp_path: Path, shared_data: Path) -> None:
    """LoRA, 2,000 rows: 0.80 and more of the 872 held-out ones."""
    sets = f"path: {shared_data}/sst2/train.tsv, eval_path: {shared_data}/sst2/dev.tsv, names: [text, label], limit: 2000"
    found = measured(tmp_path, sets, task="classify", rate=1e-3, epochs=2)
    assert found["tuned"]["accuracy"] >= 0.80 > found["base"]["accuracy"] + 0.2


def test_diseases(tmp_path: Path, shared_data: Path) -> None:
    """Full fine-tuning, one pass: entity F1 of 0.60 and more."""
    sets = f"path: {shared_data}/ncbi_disease/train.tsv, eval_path: {shared_data}/ncbi_disease/devel.tsv"
    found = measured(tmp_path, sets, task="tag", rate=3e-4, epochs=1, adapter="full")
    assert found["tuned"]["f1"] >= 0.60 > found["base"]["f1"]


def test_likeness(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "sts2012"
    sets = f"path: {folder}/MSRpar.train.tsv, eval_path: {folder}/MSRpar.test.tsv, names: [score, sentence1, sentence2]"
    found = measured(tmp_path, sets, task="embed", rate=3e-4, epochs=2)
    assert found["tuned"]["spearman"] > found["base"]["spearman"] + 0.03


def test_answers(tmp_path: Path) -> None:
    """Full fine-tuning on 400 questions that a program wrote, about people, towns and years that do not occur in the held-out ones."""
    people.write(tmp_path)
    sets = f"path: {tmp_path}/train.jsonl, eval_path: {tmp_path}/eval.jsonl"
    found = measured(tmp_path, sets, task="qa", rate=3e-4, epochs=6, adapter="full")
    assert found["tuned"]["exact_match"] > 0.8 > found["base"]["exact_match"] + 0.6


def test_a_student_learns_from_a_teacher(tmp_path: Path, shared_data: Path) -> None:
    """11 of SmolLM2's 30 blocks, by themselves no language model any more, learn from all of them in 40 steps."""
    option = find_option("model", "smollm2-135m", where="")
    assert option is not None
    teacher = fetch(from_section(Model, option.data), progress=print)
    student = AutoModelForCausalLM.from_pretrained(teacher, dtype=torch.float32)
    kept = [0, 1, 2, 6, 10, 14, 18, 22, 26, 28, 29]
    student.model.layers = torch.nn.ModuleList(student.model.layers[index] for index in kept)
    student.config.num_hidden_layers = len(kept)
    student.config.layer_types = None
    student.save_pretrained(tmp_path / "student")
    AutoTokenizer.from_pretrained(teacher).save_pretrained(tmp_path / "student")
    text = HEAD.format(task="distil", model="custom", adapter="full").replace("{dtype", f"{{id: {tmp_path}/student, dtype")
    text += "task: {teacher: smollm2-135m, max_length: 128}\n"
    text += f"data: {{path: {shared_data}/alpaca_en/train.json, eval_rows: 24, limit: 400}}\n"
    text += "trainer: {precision: fp32, batch_size: 8, learning_rate: 5e-4, max_steps: 40, save_steps: 0}\neval: {generate: false}\n"
    found = ran(tmp_path, text)
    assert found["tuned"]["teacher_kl"] < 0.6 * found["base"]["teacher_kl"]


def test_digits(tmp_path: Path, shared_data: Path) -> None:
    """Whisper tiny.en hears single digits: the word error rate falls."""
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    clips = sorted((shared_data / "spoken_digits").glob("*.wav"))
    rows = [{"audio": str(clip), "text": names[int(clip.name[0])]} for clip in clips]
    write(tmp_path, "train", [row for i, row in enumerate(rows) if i % 4])
    write(tmp_path, "dev", rows[::4])
    recipe = f"# real — a test\ndefaults: [{{task: transcribe}}, {{model: whisper-tiny-en}}, {{hub: none}}]\n{DIGITS}"
    assert (found := ran(tmp_path, recipe))["tuned"]["wer"] < found["base"]["wer"] - 0.15


def test_reading_on(tmp_path: Path, shared_data: Path) -> None:
    """SmolLM2 with LoRA reads on in 25 articles, 20 steps of 2,048 tokens: five others surprise it less."""
    articles.write(tmp_path, shared_data)
    recipe = "# real — a test\ndefaults: [{task: pretrain}, {model: smollm2-135m}, {adapter: lora}, {hub: none}]\n" + READ
    recipe += "task: {max_length: 256}\ntrainer: {learning_rate: 5e-4, batch_size: 8, max_steps: 20, save_steps: 0}\n"
    found = ran(tmp_path, recipe)
    assert found["base"]["perplexity"] < 40
    assert found["tuned"]["perplexity"] < 0.93 * found["base"]["perplexity"]


def test_from_scratch(tmp_path: Path, shared_data: Path) -> None:
    """A Llama of 1.8M parameters that knows nothing, of a stream: better than the frequencies of its tokens."""
    articles.write(tmp_path, shared_data)
    words = articles.llama(tmp_path)
    recipe = HEAD.format(task="pretrain", model="custom", adapter="full").replace("{dtype", "{id: ./llama, init: random, dtype")
    recipe += READ.replace("}", ", streaming: true}")
    recipe += "task: {max_length: 128}\ntrainer: {precision: fp32, learning_rate: 3e-3, batch_size: 8, max_steps: 300, save_steps: 0}\n"
    found = ran(tmp_path, recipe)
    assert found["base"]["perplexity"] == pytest.approx(words, rel=0.1)
    assert found["tuned"]["perplexity"] < 0.3 * words


def test_words_that_are_hidden(tmp_path: Path, shared_data: Path) -> None:
    """MiniLM comes without the part that fills in, and learns it on pieces of 40 words."""
    articles.write(tmp_path, shared_data, words=40)
    recipe = HEAD.format(task="fill_mask", model="minilm-l6", adapter="full") + "task: {max_length: 64}\n" + READ
    recipe += "trainer: {precision: fp32, batch_size: 32, learning_rate: 5e-4, num_train_epochs: 1, save_steps: 0}\n"
    found = ran(tmp_path, recipe)
    assert found["tuned"]["masked_accuracy"] > 0.1 > found["base"]["masked_accuracy"] + 0.08


def test_an_invented_language(tmp_path: Path) -> None:
    """A T5 that knows nothing learns 60 words and another order of them, from 3,000 sentences."""
    tongue.write(tmp_path, rows=3000, held_out=100)
    recipe = HEAD.format(task="translate", model="custom", adapter="full").replace("{dtype", "{id: ./t5, dtype")
    recipe = recipe.replace("{hub: none}", "{hub: none}, {eval: translation}") + "task: {max_length: 16, max_target_length: 16}\n"
    recipe += "data: {path: train.jsonl, eval_path: dev.jsonl}\n"
    recipe += "trainer: {precision: fp32, batch_size: 32, learning_rate: 2e-3, num_train_epochs: 10, save_steps: 0}\n"
    found = ran(tmp_path, recipe)
    assert found["tuned"]["bleu"] > 80 > 5 > found["base"]["bleu"]
    assert found["tuned"]["chrf"] > 88
