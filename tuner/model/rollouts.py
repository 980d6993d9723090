"""Answers that a model samples to learn from: `Rollouts(task, …)(model, batches, seed)` adds them and what they are worth to batches.

The answers to all prompts of an optimizer step are sampled before its first micro-batch passes (`Objective.acts`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from tuner.data.asked import Asked
from tuner.data.store import IGNORE
from tuner.model.adapt import measuring
from tuner.model.batches import flat, padded
from tuner.model.generation import stop_ids
from tuner.model.objectives import Batch, Item
from tuner.model.preferences import likelihoods
from tuner.model.rewards import Answer, Score
from tuner.schema.rewarded import Grpo, OnlineDpo, Rewarded, Rloo, Scale

BLANK: dict[str, Any] = {"input_ids": [0, 0], "labels": [IGNORE, IGNORE], "blank": True}


def advantages(task: Rewarded, rewards: Tensor) -> Tensor:
    """What each answer is worth beside the others to its prompt [prompts, answers]."""
    if isinstance(task, Rloo):
        others = (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        return rewards - others
    away = rewards - rewards.mean(1, keepdim=True)
    scale = task.scale_rewards if isinstance(task, Grpo) else Scale.none
    if scale is Scale.none:
        return away
    return away / ((rewards.std(1, keepdim=True) if scale is Scale.group else rewards.std()) + 1e-4)


class Rollouts:
    """Samples, has scored, and lays out what a step learns from. `free`: rows end to end; `at_once`: answers sampled together."""

    def __init__(self, task: Rewarded, tokenizer: PreTrainedTokenizerBase, score: Score, *, free: bool, at_once: int) -> None:
        self.task, self.tokenizer, self.score = task, tokenizer, score
        self.lay = flat if free else padded(tokenizer)
        self.prompts_at_once = max(1, at_once // task.num_generations)
        self.sums = dict.fromkeys(("reward", "answers", "tokens", "prompts", "alike"), 0.0)

    def __call__(self, model: Any, batches: list[Batch], seed: int) -> list[Batch]:
        """The batches of a step with answers to their prompts, drawn by a seed. Blank prompts have blank answers."""
        asked = [one for batch in batches for one in batch["asked"]]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            answers = iter(list(self._answers(model, [one for one in asked if one])))
        found = [next(answers) if one else None for one in asked]
        rewards = self._rewards([one for one in asked if one], [ids for ids in found if ids is not None])
        rows, device = iter(found), next(model.parameters()).device
        laid = [self._rows(batch["asked"], rows) for batch in batches]
        if isinstance(self.task, Rloo) and self.task.beta:
            moved = torch.cat([self._moved(model, batch, device).reshape(-1, self.task.num_generations) for batch in laid])
            rewards = rewards - self.task.beta * moved[[one is not None for one in asked]].cpu()
        self._worth(asked, rewards, laid)
        for batch in laid if isinstance(self.task, OnlineDpo) or (isinstance(self.task, Grpo) and self.task.beta) else ():
            likely, owner, count = before(model, batch, device, 1.0 if isinstance(self.task, OnlineDpo) else self.task.temperature)
            pairs = isinstance(self.task, OnlineDpo)
            batch["reference"] = likely.new_zeros(count).index_add(0, owner, likely).reshape(-1, 2) if pairs else likely
        return laid

    @torch.no_grad()
    def _answers(self, model: Any, asked: Sequence[Asked]) -> Iterator[list[list[int]]]:
        """Of each prompt its sampled answers, each up to the token that ends it."""
        task, ends, pad = self.task, stop_ids(self.tokenizer), self.tokenizer.pad_token_id or 0
        config = GenerationConfig(
            do_sample=True,
            temperature=task.temperature,
            top_k=0,
            num_return_sequences=task.num_generations,
            max_new_tokens=task.max_completion_length,
            eos_token_id=ends,
            pad_token_id=pad,
            use_cache=True,
        )
        measuring(model)
        for first in range(0, len(asked), self.prompts_at_once):
            prompts = [one.ids for one in asked[first : first + self.prompts_at_once]]
            width = max(map(len, prompts))
            ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=model.device)
            mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=model.device)
            said = model.generate(input_ids=ids, attention_mask=mask, generation_config=config)[:, width:].tolist()
            answers = [ids[: 1 + next((i for i, token in enumerate(ids) if token in ends), len(ids))] for ids in said]
            yield from (answers[i : i + task.num_generations] for i in range(0, len(answers), task.num_generations))

    def _rewards(self, asked: Sequence[Asked], found: Sequence[list[list[int]]]) -> Tensor:
        """[prompts, answers], and what is logged of them."""
        answers = [
            Answer(text=text_of(ids, self.tokenizer), tokens=len(ids), prompt=one.prompt, reference=one.reference)
            for one, several in zip(asked, found, strict=True)
            for ids in several
        ]
        rewards = torch.tensor([sum(given.values()) for given in self.score(answers)], dtype=torch.float32)
        rewards = rewards.reshape(len(asked), self.task.num_generations)
        alike = (rewards == rewards[:, :1]).all(1).sum() if len(asked) else 0
        counted = (float(rewards.sum()), len(answers), sum(a.tokens for a in answers), len(asked), float(alike))
        self.sums = {name: self.sums[name] + more for name, more in zip(self.sums, counted, strict=True)}
        return rewards

    def _rows(self, asked: Sequence[Asked | None], found: Iterator[list[list[int]] | None]) -> Batch:
        """Each prompt with each of its answers, of which the loss is."""
        rows: list[Item] = []
        for one in asked:
            for ids in next(found) or [[]] * self.task.num_generations:
                rows.append(BLANK if one is None else {"input_ids": one.ids + ids, "labels": [IGNORE] * len(one.ids) + ids})
        return {"laid": rows} if isinstance(self.task, OnlineDpo) else self.lay([{"rows": rows}])

    @torch.no_grad()
    def _moved(self, model: Any, batch: Batch, device: torch.device) -> Tensor:
        """By how much each answer has become likelier since before training, in nats [answers]."""
        likely, owner, count = before(model, batch, device, self.task.temperature)
        moved = likelihoods(model, on(batch, device), self.task.temperature)[0] - likely
        return moved.new_zeros(count).index_add(0, owner, moved)

    def _worth(self, asked: Sequence[Asked | None], rewards: Tensor, laid: list[Batch]) -> None:
        """Adds to each batch what its answers are worth; of `online_dpo` the best and the worst of each prompt are its rows."""
        worth, row = (rewards if isinstance(self.task, OnlineDpo) else advantages(self.task, rewards)), iter(range(len(rewards)))
        by_prompt = [worth[next(row)] if one else torch.zeros(self.task.num_generations) for one in asked]
        at = 0
        for batch in laid:
            if not isinstance(self.task, OnlineDpo):
                count = batch_rows(batch) // self.task.num_generations
                batch["advantages"] = torch.cat(by_prompt[at : at + count])
            else:
                count, rows = len(batch["laid"]) // self.task.num_generations, list[Item]()
                for number, values in enumerate(by_prompt[at : at + count]):
                    own = batch["laid"][number * self.task.num_generations :][: self.task.num_generations]
                    best, worst = int(values.argmax()), int(values.argmin())
                    rows += [own[best], own[worst]] if values[best] > values[worst] else [BLANK, BLANK]
                batch |= self.lay([{"rows": rows}])
                del batch["laid"]
            at += count

    def noted(self) -> dict[str, float]:
        """Sums since they were last asked for; `alike`: prompts whose answers were all worth the same."""
        found, self.sums = self.sums, dict.fromkeys(self.sums, 0.0)
        return found


@torch.no_grad()
def before(model: Any, batch: Batch, device: torch.device, temperature: float) -> tuple[Tensor, Tensor, int]:
    """What `likelihoods` gives of the model as it was before training: below its adapter."""
    with model.disable_adapter():
        return likelihoods(model, on(batch, device), temperature)


def on(batch: Batch, device: torch.device) -> Batch:
    """A batch on a device."""
    return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}


def text_of(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    """An answer as text."""
    return str(tokenizer.decode(ids, skip_special_tokens=True)).strip()


def batch_rows(batch: Batch) -> int:
    """Conversations of a batch, laid end to end or padded."""
    return len(batch["cu_seq_lens_q"]) - 1 if "cu_seq_lens_q" in batch else len(batch["labels"])
