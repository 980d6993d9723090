"""What an answer is worth, by name: `scorer({"numeric": 1.0}, task, …)(answers)` -> [{"numeric": 1.0}, …], weighted.

A reward takes Answers and gives a number each. A person's own comes from `@reward` (tuner/extend.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from tuner.data.turns import Message
from tuner.errors import ENVIRONMENT, TuneError
from tuner.model.adapt import attach
from tuner.model.batches import padded
from tuner.model.endings import Ending
from tuner.model.judge import AT_ONCE, said
from tuner.model.load import load_base, load_tokenizer
from tuner.model.preferences import rewards
from tuner.registry import kinds
from tuner.said import MISSING, NUMBER, as_json, by_own, by_schema, same, same_number
from tuner.schema.model import Model
from tuner.schema.rewarded import Rewarded

GRADER = "Grade the assistant's last answer from 0 (useless or wrong) to 10 (correct, complete, to the point). Say the number alone."
TOGETHER = 8  # conversations that a reward model reads


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What was said to a prompt: its text and length in tokens; the prompt, and the row's reference."""

    text: str
    tokens: int
    prompt: list[Message]
    reference: str


Reward = Callable[[Sequence[Answer]], list[float]]
Score = Callable[[Sequence[Answer]], list[dict[str, float]]]


def scorer(task: Rewarded, device: torch.device, tell: Callable[[str], None] = lambda text: None) -> Score:
    """All rewards of a task, each times its weight. Raises TuneError (code 4) where a reward model or a library is missing."""
    found = {name: (weight, _reward(name, task, device, tell)) for name, weight in task.rewards.items()}

    def score(answers: Sequence[Answer]) -> list[dict[str, float]]:
        given = {name: [weight * value for value in reward(answers)] for name, (weight, reward) in found.items()}
        return [{name: values[index] for name, values in given.items()} for index in range(len(answers))]

    return score


def _reward(name: str, task: Rewarded, device: torch.device, tell: Callable[[str], None]) -> Reward:
    if (own := kinds("reward").get(name)) is not None:
        of = by_own(name, own)
        return lambda answers: [of(answer.text, answer.reference, answer.prompt) for answer in answers]
    if name == "model":
        return of_model(str(task.reward_model), device, tell)
    if name == "judge":
        return of_judge(str(task.judge_url), str(task.judge_model))
    single: dict[str, Callable[[], Callable[[Answer], float]]] = {
        "exact": lambda: lambda answer: float(same(answer.text, answer.reference)),
        "numeric": lambda: lambda answer: float(same_number(answer.text, answer.reference)),
        "regex": lambda: lambda answer: float(re.search(str(task.pattern), answer.text) is not None),
        "json": lambda: lambda answer: float(as_json(answer.text) is not MISSING),
        "json_schema": lambda: _by_schema(task.json_schema),
        "length": lambda: lambda answer: max(0.0, 1 - abs(answer.tokens - (task.target_length or 1)) / (task.target_length or 1)),
    }
    each = single[name]()
    return lambda answers: [each(answer) for answer in answers]


def _by_schema(schema: dict[str, Any]) -> Callable[[Answer], float]:
    valid = by_schema(schema, at="task.json_schema")
    return lambda answer: float(valid(answer.text))


def of_model(name: str, device: torch.device, tell: Callable[[str], None]) -> Reward:
    """The number of a reward model, an adapter or whole, that reads the conversation by its own template."""
    tokenizer, _ = load_tokenizer(Model(id=name), progress=tell)
    lay, adapter = padded(tokenizer), Path(name) / "adapter_config.json"
    ending = Ending(head="sequence", labels=("score",), problem="regression", padding=tokenizer.pad_token_id)
    whole = json.loads(adapter.read_text(encoding="utf-8"))["base_model_name_or_path"] if adapter.is_file() else name
    model: Any = load_base(Model(id=whole), device, progress=tell, ending=ending)
    if adapter.is_file():
        model = attach(model, Path(name))
    elif cast(Any, model).new_modules:
        what = f"{name} gives no number: its weights have no `{', '.join(cast(Any, model).new_modules)}`"
        raise TuneError(what, "task.reward_model", "name a reward model, such as a result of `task: reward`", code=ENVIRONMENT)

    @torch.no_grad()
    def score(answers: Sequence[Answer]) -> list[float]:
        found: list[float] = []
        for first in range(0, len(answers), TOGETHER):
            talks = [[*a.prompt, {"role": "assistant", "content": a.text}] for a in answers[first : first + TOGETHER]]
            rows = [cast(Any, tokenizer.apply_chat_template(talk, tokenize=True, return_dict=True))["input_ids"] for talk in talks]
            batch = lay([{"rows": [{"input_ids": ids, "labels": ids} for ids in rows]}])
            found += rewards(model, {n: batch[n].to(device) for n in ("input_ids", "attention_mask")}).tolist()
        return found

    return score


def of_judge(url: str, model: str) -> Reward:
    """The grade of a model behind an OpenAI-compatible address, as a share of 10; 0 where it names none."""

    def grade(answer: Answer) -> float:
        talk = "\n\n".join(f"{m['role']}: {m.get('content') or ''}" for m in answer.prompt)
        wanted = f"\n\nA right answer: {answer.reference}" if answer.reference else ""
        asked = [{"role": "system", "content": GRADER}, {"role": "user", "content": f"{talk}\n\nassistant: {answer.text}{wanted}"}]
        number = NUMBER.search(said(url, model, asked, at="task.judge_url"))
        return min(max(float(number.group().replace(",", "")) / 10, 0.0), 1.0) if number else 0.0

    def score(answers: Sequence[Answer]) -> list[float]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(grade, answers))

    return score
