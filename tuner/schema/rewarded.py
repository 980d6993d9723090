"""Tasks of the `task:` section that learn from rewards of their own answers: `grpo`, `rloo`, `online_dpo`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.task import Task

# What a reward of ours gives, by name; a person's own come from `@reward` (tuner/extend.py).
REWARDS = {
    "exact": "1 where the answer is the row's reference, or the same as JSON",
    "numeric": "1 where the last number of the answer (behind `####` or in `\\boxed{}`, where there is one) is that of the reference",
    "regex": "1 where `task.pattern` is found in the answer",
    "json": "1 where the answer is JSON",
    "json_schema": "1 where it is JSON that `task.json_schema` takes",
    "length": "1 at `task.target_length` tokens, and less the further off: 0 at none, and at twice as many",
    "model": "the number that the reward model `task.reward_model` gives the conversation",
    "judge": "the grade, 0 to 1, of a model behind an OpenAI-compatible address, `task.judge_url`",
}
# The key that each needs.
NEEDS = {
    "regex": ("pattern",),
    "json_schema": ("json_schema",),
    "length": ("target_length",),
    "model": ("reward_model",),
    "judge": ("judge_url", "judge_model"),
}
REFERENCED = ("exact", "numeric")  # those that read the row's reference


class Scale(StrEnum):
    """What a reward's distance from its group's mean is divided by."""

    group = "group"
    batch = "batch"
    none = "none"


class PolicyLoss(StrEnum):
    """How the loss of tokens becomes one number, by TRL's names."""

    dapo = "dapo"
    grpo = "grpo"
    dr_grpo = "dr_grpo"


@dataclass(kw_only=True)
class Rewarded(Task):
    """Tasks that sample answers to each prompt and learn from what they are worth."""

    impl: ClassVar[str] = "tuner.tasks.rewarded"
    whole: ClassVar[bool] = True

    max_length: int = opt(512, affects="prepare baseline", ge=8)
    """Longest prompt in tokens; rows with a longer one are left out, and the audit counts them."""
    max_completion_length: int = opt(256, affects="baseline train", ge=1)
    """Longest sampled answer in tokens, in training and where it is measured."""
    num_generations: int = opt(8, affects="train", ge=2)
    """Answers to each prompt, which are compared with each other. `trainer.batch_size` counts prompts."""
    temperature: float = opt(1.0, affects="train", gt=0)
    """Of sampling: below 1 answers are more alike, above 1 less."""
    rewards: dict[str, float] = opt(factory=dict, affects="baseline train")
    """Names and weights: `{numeric: 1, length: 0.1}`. exact, numeric, regex, json, json_schema, length, model, judge, or your own."""
    pattern: str | None = opt(None, affects="baseline train")
    """A regular expression for the reward `regex`, looked for anywhere in the answer."""
    json_schema: dict[str, Any] = opt(factory=dict, affects="baseline train")
    """A JSON schema for the reward `json_schema`."""
    target_length: int | None = opt(None, affects="baseline train", ge=1)
    """Tokens of an answer of the right length, for the reward `length`."""
    reward_model: str | None = opt(None, affects="baseline train")
    """For the reward `model`: an id on the Hub or a folder; a result of `task: reward` is one."""
    judge_url: str | None = opt(None, affects="baseline train")
    """For the reward `judge`: where an OpenAI-compatible server is, as http://127.0.0.1:8000/v1. Its key: OPENAI_API_KEY."""
    judge_model: str | None = opt(None, affects="baseline train")
    """The judge's name on that server."""

    def longest_answer(self, said: int) -> int:
        """As long as those that are learned from."""
        return self.max_completion_length

    def grown(self, length: int) -> int:
        """Its answers stand behind a prompt of so many tokens."""
        return (length + self.max_completion_length) * self.num_generations


@kind("task", "grpo")
@dataclass(kw_only=True)
class Grpo(Rewarded):
    """Group relative policy optimisation: each answer against the others to its prompt (https://arxiv.org/abs/2402.03300)."""

    beta: float = opt(0.0, affects="train", ge=0)
    """Weight of the distance (KL) from the model as it was before training; 0 needs none of it."""
    scale_rewards: Scale = opt(Scale.group, affects="train")
    """What a reward's distance from its group's mean is divided by: the deviation of the `group`, of the `batch`, or nothing (`none`)."""
    loss_type: PolicyLoss = opt(PolicyLoss.dapo, affects="train")
    """`dapo`: the mean over all tokens of the batch; `grpo`: over each answer first; `dr_grpo`: over answers of full length."""


@kind("task", "rloo")
@dataclass(kw_only=True)
class Rloo(Rewarded):
    """REINFORCE with each answer against the mean of the others to its prompt (https://arxiv.org/abs/2402.14740)."""

    num_generations: int = opt(2, affects="train", ge=2)
    """Answers to each prompt, which are compared with each other. `trainer.batch_size` counts prompts."""
    beta: float = opt(0.05, affects="train", ge=0)
    """What the distance (KL) of an answer from the model before training takes from its reward."""


@kind("task", "online_dpo")
@dataclass(kw_only=True)
class OnlineDpo(Rewarded):
    """DPO on the model's own answers: the best of each prompt's against the worst (https://arxiv.org/abs/2402.04792)."""

    num_generations: int = opt(2, affects="train", ge=2)
    """Answers to each prompt, of which the best and the worst are a pair. `trainer.batch_size` counts prompts."""
    beta: float = opt(0.1, affects="train", gt=0)
    """How far the model may move: the larger, the less."""
