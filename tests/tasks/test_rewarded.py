"""`task: grpo`, `rloo`, `online_dpo`: advantages and losses beside TRL's, rewards by name, what is learned, refused and resumed."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from tests.judging import judge
from tests.lab import Lab, by_two, log_of, make_lab, task_of, tiny_model, tiny_tokenizer, train, weights_of
from tests.tasks import cards
from tests.tiny import make_model
from tuner import cli
from tuner.data.asked import Asked, PromptRows
from tuner.data.splits import held_out, split
from tuner.errors import TuneError
from tuner.eval.scores import summary
from tuner.extensions import load_files
from tuner.model import packed
from tuner.model.policy import of_rewards
from tuner.model.rewards import Answer, scorer
from tuner.model.rollouts import Rollouts, advantages
from tuner.said import last_number
from tuner.schema.rewarded import Grpo, OnlineDpo, PolicyLoss, Rewarded, Rloo, Scale

pytestmark = [pytest.mark.usefixtures("own_kinds"), pytest.mark.filterwarnings("ignore")]
RECIPE = """\
# small — a test
defaults: [{task: grpo}]
model: {id: MODEL, dtype: float32}
task: {rewards: {early: 1}, num_generations: 8, max_completion_length: 8}
data: {path: FOLDER/train.jsonl, eval_path: FOLDER/eval.jsonl}
trainer: {batch_size: 8, learning_rate: 1e-2, precision: fp32, save_steps: 2}
hardware: {device: cpu}
"""
OWN = '''
from tuner.extend import reward


@reward
def early(answer: str) -> float:
    """The share of the answer that is small letters."""
    return sum("a" <= letter <= "z" for letter in answer) / max(1, len(answer))
'''


@cache
def outspoken() -> Path:
    """The tiny model with louder embeddings: whatever an adapter does, those of its base leave all tokens nearly as likely."""
    folder = make_model(Path(mkdtemp(prefix="outspoken-")))
    weights = load_file(folder / "model.safetensors")
    weights["model.embed_tokens.weight"] *= 10
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def lab_of(folder: Path) -> Lab:
    """Letters to go on from, and a reward of the test's own for some letters."""
    lab = make_lab(folder, recipe=RECIPE.replace("MODEL", str(outspoken())))
    for name, letters in (("train", "abcdefghijklmnopqrstuvwx"), ("eval", "ABCDEFGH")):
        lines = [json.dumps({"prompt": f"{letter}?", "answer": letter}) + "\n" for letter in letters]
        (folder / f"{name}.jsonl").write_text("".join(lines))
    (folder / "own.py").write_text(OWN)
    load_files([str(folder / "own.py")], trust=True)
    return lab


def measured(run: Any, tuned: Path | None) -> dict[str, float]:
    task = task_of(run)
    return summary(task.score(run, task.load(run, tuned=tuned), held_out(run)), task.formulas(run))


@pytest.mark.parametrize("task", ["grpo", "rloo", "online_dpo"])
def test_what_is_rewarded_is_said_more(task: str, tmp_path: Path) -> None:
    more = {"online_dpo": ("trainer.num_train_epochs=20",), "rloo": ("trainer.learning_rate=2e-2",)}.get(task, ())
    run = lab_of(tmp_path).run(f"task={task}", "task.num_generations=8", "trainer.num_train_epochs=8", "trainer.save_steps=0", *more)
    train(run)
    log = log_of(run.folder)
    assert all({"reward", "answer_tokens", "alike"} <= set(entry) for entry in log)
    first, last = (sum(entry["reward"] for entry in part) / len(part) for part in (log[:3], log[-3:]))
    assert last > first + 0.25, (first, last)
    assert measured(run, run.folder)["reward"] > measured(run, None)["reward"] + 0.2
    assert all("lora" in name for name in weights_of(run.folder))


def test_a_run_from_the_command_line_to_the_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = lab_of(tmp_path)
    with contextlib.chdir(tmp_path):
        assert cli.main(["recipe=small", "launcher=inline", "trainer.max_steps=3", "--extensions", "own.py", "--trust"]) == 0
    assert "reward 0." in capsys.readouterr().out
    (folder,) = (tmp_path / "outputs" / "small").iterdir()
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Reward of sampled answers" in page
    assert "1 × early" in page
    assert "reward 0" in page
    assert "differs" not in page
    assert "Lower is better" not in page + (folder / "README.md").read_text()
    assert "8 answers of the model's own to each were compared by their rewards (1 × early)" in (folder / "README.md").read_text()
    assert "of at most 8 tokens" in (folder / "README.md").read_text()
    cards.printed(folder)
    run = lab.run()
    shown = task_of(run).show(run, split(run)[0], 0)
    assert "a?" in "".join(part["text"] for part in shown["segments"])
    assert not any(part["trained"] for part in shown["segments"])


def test_a_worker_knows_a_reward_of_ones_own(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    wanted = ("recipe=small", "trainer.max_steps=1", "eval.limit=1", "hub=none")
    done = lab.tune(*wanted, "--extensions", "own.py", "--trust")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "own.py" in (next((tmp_path / "outputs" / "small").iterdir()) / "plan.json").read_text()
    assert "unknown reward `early`" in lab.tune(*wanted).stderr


def test_a_resumed_training_samples_the_same_answers(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    run = lab.run("trainer.max_steps=4")
    train(run)
    through = log_of(run.folder)
    shutil.rmtree(run.folder / "checkpoints" / "checkpoint-4")
    train(run)
    assert "going on from step 2 of 4" in lab.told
    for name in ("loss", "reward", "answer_tokens"):
        assert [entry[name] for entry in log_of(run.folder)] == pytest.approx([entry[name] for entry in through], abs=1e-6)


@pytest.mark.slow
@pytest.mark.ci
@pytest.mark.parametrize("task", ["grpo", "online_dpo"])
def test_two_processes_sample_their_own_answers(task: str, tmp_path: Path) -> None:
    """21 prompts, 8 a step: the last step of an epoch has five, and three of its places are blank."""
    lab = lab_of(tmp_path)
    lines = (tmp_path / "train.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_text("".join(lines[:21]))
    letters = ("task.rewards={early: 0, regex: 1}", "task.pattern='^[a-z]'", "task.num_generations=8", "task.max_completion_length=4")
    log = log_of(by_two(lab, f"task={task}", *letters, "trainer.num_train_epochs=12", "trainer.save_steps=0"))
    assert len(log) == 36
    first, last = (sum(entry["reward"] for entry in part) / len(part) for part in (log[:4], log[-4:]))
    assert last > first + 0.2, (first, last)


def prompts(*texts: str) -> list[Asked]:
    """Prompts of two tokens a letter."""
    ids = [tiny_tokenizer()(text, add_special_tokens=False)["input_ids"] for text in texts]
    return [
        Asked(prompt=[{"role": "user", "content": text}], tools=None, reference="", ids=one) for text, one in zip(texts, ids, strict=True)
    ]


@pytest.fixture
def policy() -> Any:
    """An adapter that says something else than its base."""
    torch.manual_seed(0)
    packed.register()
    base = AutoModelForCausalLM.from_pretrained(outspoken(), attn_implementation=packed.ATTENTION)
    return get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)).eval()


def worth(answers: Any) -> list[dict[str, float]]:
    """A reward that is different for most answers."""
    return [{"own": float(sum(map(ord, a.text)) % 7)} for a in answers]


def laid(policy: Any, task: Rewarded, *, free: bool) -> Any:
    """An objective, and a batch of two prompts with sampled answers."""
    wanted = of_rewards(task, tiny_tokenizer(), worth, padding_free=free)
    (batch,) = wanted.acts(policy, [wanted.collate([{"asked": one} for one in prompts("ab?", "c?")])], 3)
    return wanted, batch


GROUPS = [Grpo(beta=0.1, loss_type=kind) for kind in PolicyLoss] + [Rloo(num_generations=8, beta=0.1)]


@pytest.mark.parametrize("task", GROUPS, ids=lambda task: f"{task.kind}-{getattr(task, 'loss_type', '')}")
def test_a_loss_is_that_of_trl(task: Any, policy: Any, tmp_path: Path) -> None:
    task.max_completion_length, task.temperature = 6, 0.7
    (wanted, batch), (flat, end_to_end) = (laid(policy, task, free=free) for free in (False, True))
    ours = wanted.loss(policy, batch, 0.0) / wanted.count(batch)
    assert float((flat.loss(policy, end_to_end, 0.0) / flat.count(end_to_end)).detach()) == pytest.approx(float(ours.detach()), abs=1e-5)
    trainer = of_trl(task, policy, tmp_path)
    answered = batch["labels"] != -100
    first = [int(row.nonzero()[0]) for row in answered]
    length = int(answered.sum(1).max())
    inputs: dict[str, Any] = {
        "prompt_ids": torch.stack([left(row[:at], 8) for row, at in zip(batch["input_ids"], first, strict=True)]),
        "prompt_mask": torch.stack([left(torch.ones(at, dtype=torch.long), 8) for at in first]),
        "completion_ids": torch.stack([right(row[at:], length) for row, at in zip(batch["input_ids"], first, strict=True)]),
        "completion_mask": torch.stack([right(row[at:].long(), length) for row, at in zip(answered, first, strict=True)]),
        "advantages": batch["advantages"],
        "num_items_in_batch": answered.sum(),
    }
    per_token = trainer._get_per_token_logps_and_entropies(
        policy, *(torch.cat([inputs[f"prompt_{n}"], inputs[f"completion_{n}"]], 1) for n in ("ids", "mask")), length
    )[0].detach()
    if isinstance(task, Rloo):
        inputs["old_logps"] = (per_token * inputs["completion_mask"]).sum(1)
    else:
        reference = torch.zeros_like(per_token)
        reference[inputs["completion_mask"].bool()] = batch["reference"]
        inputs["ref_per_token_logps"] = reference
    theirs = trainer._compute_loss(policy, inputs)
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-4, abs=1e-6)
    own = torch.autograd.grad(ours, [p for p in policy.parameters() if p.requires_grad])
    other = torch.autograd.grad(theirs, [p for p in policy.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-6) for a, b in zip(own, other, strict=True))
    assert any(bool(a.any()) for a in own)


def left(row: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([torch.zeros(size - len(row), dtype=torch.long), row.long()])


def right(row: torch.Tensor, size: int) -> torch.Tensor:
    return torch.cat([row[:size].long(), torch.zeros(max(0, size - len(row)), dtype=torch.long)])


def of_trl(task: Any, model: Any, folder: Path, reward: Any = lambda completions, **_: [0.0] * len(completions)) -> Any:
    """TRL's trainer with the same settings."""
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    kinds: Any = (GRPOConfig, GRPOTrainer) if isinstance(task, Grpo) else (RLOOConfig, RLOOTrainer)
    own = {"loss_type": task.loss_type.value, "scale_rewards": task.scale_rewards.value} if isinstance(task, Grpo) else {}
    args = kinds[0](
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        report_to=[],
        beta=task.beta,
        temperature=task.temperature,
        num_generations=task.num_generations,
        per_device_train_batch_size=16,
        max_completion_length=task.max_completion_length,
        steps_per_generation=1,
        **own,
    )
    rows = Dataset.from_list([{"prompt": "ab?"}, {"prompt": "c?"}] * 8)
    return kinds[1](model=model, reward_funcs=reward, args=args, train_dataset=rows, processing_class=tiny_tokenizer())


@pytest.mark.parametrize("task", [Grpo(scale_rewards=scale) for scale in Scale] + [Rloo(num_generations=8, beta=0)])
def test_advantages_are_those_of_trl(task: Any, policy: Any, tmp_path: Path) -> None:
    task.max_completion_length = 4
    given = torch.arange(16).float() ** 2 % 11
    trainer = of_trl(task, policy, tmp_path, lambda completions, **_: given.tolist())
    found = trainer._generate_and_score_completions([{"prompt": "ab?"}] * 8 + [{"prompt": "c?"}] * 8)
    assert torch.allclose(advantages(task, given.reshape(2, 8)).flatten(), found["advantages"], atol=1e-5)


def test_an_answer_that_became_likelier_costs(policy: Any) -> None:
    """RLOO takes the KL from the rewards: of a policy that has moved, and nothing of one that has not."""

    def drawn(beta: float) -> torch.Tensor:
        found: torch.Tensor = laid(policy, Rloo(num_generations=8, max_completion_length=6, beta=beta), free=True)[1]["advantages"]
        return found

    assert not torch.allclose(drawn(0.0), drawn(50.0), atol=0.1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            parameter.data.zero_()
    assert torch.allclose(drawn(0.0), drawn(50.0), atol=1e-3)


def test_answers_are_as_warm_and_as_long_as_asked(policy: Any) -> None:
    def drawn(**settings: Any) -> tuple[int, int]:
        """How many different answers there are, and the longest one's tokens."""
        answers = laid(policy, Grpo(num_generations=8, **settings), free=False)[1]["labels"][:8]
        said = [tuple(token for token in row.tolist() if token != -100) for row in answers]
        return len(set(said)), max(map(len, said))

    assert drawn(max_completion_length=5) == (8, 5)
    assert drawn(max_completion_length=9)[1] == 9
    assert drawn(max_completion_length=5, temperature=1e-4)[0] == 1


def test_prompts_that_are_too_long_are_left_out(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    with (tmp_path / "train.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "x" * 200, "answer": "y"}) + "\n")
    run = lab.run("task.max_length=100")
    task_of(run).prepare(run, split(run)[0], run.stage_folder("prepare"))
    assert len(PromptRows(run.stage_folder("prepare"))) == 24
    assert any("1 of 25 rows are left out" in line for line in lab.told)
    short = lab.run("task.max_length=8")
    with pytest.raises(TuneError, match=r"all 25 prompts are longer than task\.max_length"):
        task_of(short).prepare(short, split(short)[0], short.stage_folder("prepare"))


def test_a_pair_is_the_best_and_the_worst(policy: Any) -> None:
    said: list[Answer] = []

    def lengths(answers: Any) -> list[dict[str, float]]:
        said[:] = answers
        return [{"own": float(len(a.text))} for a in answers]

    acts = Rollouts(OnlineDpo(num_generations=6, max_completion_length=6), tiny_tokenizer(), lengths, free=False, at_once=64)
    (batch,) = acts(policy, [{"asked": prompts("ab?")}], 3)
    texts = [tiny_tokenizer().decode([t for t in row.tolist() if t != -100], skip_special_tokens=True).strip() for row in batch["labels"]]
    assert [len(text) for text in texts] == [max(len(a.text) for a in said), min(len(a.text) for a in said)]
    acts.score = lambda answers: [{"own": 1.0} for _ in answers]
    (alike,) = acts(policy, [{"asked": prompts("ab?")}], 3)
    assert (alike["labels"] == -100).all()  # nothing is better


@pytest.mark.parametrize(
    ("rewards", "more", "said", "reference", "value"),
    [
        ({"exact": 2}, {}, ' {"a": 1}', '{"a":1}', 2.0),
        ({"exact": 1}, {}, "a", "b", 0.0),
        ({"numeric": 1}, {}, "so 1,200 dollars.", "blah #### 1200", 1.0),
        ({"numeric": 1}, {}, "\\boxed{-3.50} is 7", "-3.5", 1.0),
        ({"numeric": 1}, {}, "none", "none", 0.0),
        ({"regex": 1}, {"pattern": r"^<a>.*</a>$"}, "<a>1</a>", "", 1.0),
        ({"json": 1}, {}, "[1]", "", 1.0),
        ({"json": 1}, {}, "[1", "", 0.0),
        ({"json_schema": 1}, {"json_schema": {"type": "object", "required": ["a"]}}, '{"a": 1}', "", 1.0),
        ({"json_schema": 1}, {"json_schema": {"type": "object", "required": ["a"]}}, '{"b": 1}', "", 0.0),
        ({"length": 1}, {"target_length": 4}, "four", "", 1.0),
        ({"length": 1}, {"target_length": 4}, "eighteight", "", 0.0),
        ({"exact": 1, "length": 0.5}, {"target_length": 8}, "four", "four", 1.25),
    ],
)
def test_what_an_answer_is_worth(rewards: Any, more: Any, said: str, reference: str, value: float) -> None:
    answer = Answer(text=said, tokens=len(said), prompt=[], reference=reference)
    (found,) = scorer(Grpo(rewards=rewards, **more), torch.device("cpu"))([answer])
    assert sum(found.values()) == value


def test_numbers_are_found_where_answers_are_marked() -> None:
    assert [last_number(text) for text in ("1 + 1 = 2. #### 3 apples", "x", "a 1. b .5")] == [3, None, 0.5]


def test_a_reward_model_reads_the_conversation(tmp_path: Path) -> None:
    from tests.tasks.test_preference import lab_of as preferring

    run = preferring(tmp_path).run("task=reward", "trainer.num_train_epochs=6", "trainer.learning_rate=5e-3")
    train(run)
    score = scorer(Grpo(rewards={"model": 1}, reward_model=str(run.folder)), torch.device("cpu"))
    asked = [{"role": "user", "content": "b?"}]
    polite, rude = (Answer(text=text, tokens=1, prompt=asked, reference="") for text in ("please b", "no bbbb"))
    (better,), (worse,) = ([*given.values()] for given in score([polite, rude]))
    assert better > worse
    with pytest.raises(TuneError, match="gives no number"):
        scorer(Grpo(rewards={"model": 1}, reward_model=str(tiny_model())), torch.device("cpu"))


@pytest.fixture
def graded() -> Iterator[tuple[str, list[Any]]]:
    """A judge whose grade is 7; what it was asked."""
    with judge(lambda asked: "7") as (url, asked):
        yield url, asked


def test_a_judge_is_asked_for_a_grade(graded: tuple[str, list[Any]]) -> None:
    url, asked = graded
    answer = Answer(text="Paris", tokens=1, prompt=[{"role": "user", "content": "capital of France?"}], reference="Paris!")
    found = scorer(Grpo(rewards={"judge": 1}, judge_url=url, judge_model="j"), torch.device("cpu"))([answer, answer])
    assert [given["judge"] for given in found] == [0.7, 0.7]
    assert [one["model"] for one in asked] == ["j", "j"]
    assert all(text in str(asked[0]["messages"]) for text in ("capital of France?", "Paris!"))
    with pytest.raises(TuneError, match="the judge gave no grade") as told:
        scorer(Grpo(rewards={"judge": 1}, judge_url="http://127.0.0.1:9/v1", judge_model="j"), torch.device("cpu"))([answer])
    assert told.value.code == 4


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task.rewards={exakt: 1}"], "did you mean `exact`"),
        (["task.rewards={regex: 1}"], "needs `task.pattern`"),
        (["task.pattern=a"], "no reward reads `task.pattern`"),
        (["task.rewards={regex: 1}", "task.pattern='('"], "no regular expression"),
        (["trainer.eval_steps=2"], "no use for `trainer.eval_steps`"),
        (["eval.max_new_tokens=9"], "set `task.max_completion_length`"),
        (["task.beta=0.1", "adapter=full"], "use `adapter=lora`, or `task.beta=0`"),
        (["task=online_dpo", "adapter=full"], "use `adapter=lora`"),
        (["hardware=fsdp"], "use `hardware=ddp`"),
        (["eval.generate=false"], "no use for `eval.generate`"),
        (["adapter.init_lora_weights=pissa", "task.beta=0.1"], "compares with the base below an adapter"),
        (["debug=lr"], "no use for `debug`"),
        (["task.rewards={judge: 1}"], "needs `task.judge_url`"),
    ],
)
def test_what_cannot_be_is_told(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(TuneError) as told:
        lab_of(tmp_path).plan(*overrides)
    assert said in str([(p.what, p.fix) for p in told.value.problems])


def test_rows_without_a_reference_are_told_where_one_is_read(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    lines = [json.dumps({"prompt": "a?", "answer": "b"}), json.dumps({"prompt": "b?", "answer": ""})]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    run = lab.run("task.rewards={exact: 1}")
    with pytest.raises(TuneError, match="no reference") as told:
        task_of(run).prepare(run, split(run)[0], tmp_path / "prepared")
    assert "train.jsonl:2" in told.value.problems[0].where
    (tmp_path / "train.jsonl").write_text('{"prompt": "a?"}\n{"prompt": [{"role": "user", "content": "b?"}]}\n')
    run = lab.run()
    task_of(run).prepare(run, split(run)[0], tmp_path / "prepared")
    assert (tmp_path / "prepared" / "prompts.json").read_text().count("\n") == 2


@pytest.mark.parametrize("task", ["grpo", "online_dpo"])
def test_rewards_that_are_all_alike_end_the_training(task: str, tmp_path: Path) -> None:
    """But not at the first step, at which nothing is learned."""
    run = lab_of(tmp_path).run(f"task={task}", "task.rewards={early: 0}", "trainer.num_train_epochs=10")
    with pytest.raises(TuneError, match="nothing to learn from") as told:
        train(run)
    assert told.value.code == 3
    assert [entry["loss"] for entry in log_of(run.folder)[:19]] == [0.0] * 19


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def exact(answer): return 1.0", "there is a reward `exact` already"),
        ("def mine(text): return 1.0", "a reward takes answer, reference, prompt"),
        ("def Mine(answer): return 1.0", "cannot be the name"),
    ],
)
def test_what_is_wrong_with_a_reward_of_ones_own(source: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(f"from tuner.extend import reward\n\n\n@reward\n{source}\n")
    with pytest.raises(TuneError) as told:
        load_files([str(tmp_path / "own.py")], trust=True)
    assert said in str([(p.what, p.fix) for p in told.value.problems])


def test_a_reward_that_fails_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from tuner.extend import reward\n\n\n@reward\ndef third(answer):\n    return answer[2]\n")
    load_files([str(tmp_path / "own.py")], trust=True)
    with pytest.raises(TuneError, match="`third` failed on the answer 'ab'") as told:
        scorer(Grpo(rewards={"third": 1}), torch.device("cpu"))([Answer(text="ab", tokens=1, prompt=[], reference="")])
    assert "own.py:4" in told.value.problems[0].where


def test_another_reward_of_the_same_name_is_another_run(tmp_path: Path) -> None:
    lab = lab_of(tmp_path)
    before = lab.plan()
    (tmp_path / "own.py").write_text(OWN.replace('"z"', '"y"'))
    load_files([str(tmp_path / "own.py")], trust=True)
    after = lab.plan()
    changed = {stage.name for stage in before.stages if stage.key != after.stage(stage.name).key}
    assert changed == {"baseline", "train", "evaluate", "publish"}
