"""The serving path: `answers(model, tokenizer, rows, max_new_tokens=64)` -> one text a row, greedily, in batches; `sampled` -> several."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from tuner.data.chat import prompt_ids
from tuner.eval.scores import Scored
from tuner.model.generation import settings
from tuner.schema.eval import Eval


@torch.inference_mode()
def answers(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Scored],
    *,
    max_new_tokens: int,
    batch_size: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy answers, in the order given. Rows of like length share a batch, padded on the left; `tick` gets the rows done so far."""
    prompts = [prompt_ids(row.prompt, tokenizer, tools=row.tools) for row in rows]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    config = settings(tokenizer, max_new_tokens=max_new_tokens)
    result = [""] * len(prompts)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        width = len(prompts[chosen[0]])
        pad = tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (width - len(prompts[i])) + prompts[i] for i in chosen])
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in chosen])
        with warnings.catch_warnings():  # PEFT counts positions itself where vectors stand before the text, and warns that it does
            warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
            out = model.generate(input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config)
        texts = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
        for index, text in zip(chosen, texts, strict=True):
            result[index] = text.strip()
        tick(first + len(chosen))
    return result


@torch.inference_mode()
def sampled(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Scored],
    *,
    wanted: Eval,
    seed: int,
    tick: Callable[[int], None] = lambda done: None,
) -> list[list[str]]:
    """`wanted.num_samples` answers to each row. They hang on the seed and the row's number alone, so that base and tuned draw alike."""
    config = settings(tokenizer, max_new_tokens=wanted.max_new_tokens)
    config.update(do_sample=True, temperature=wanted.temperature, top_p=wanted.top_p, top_k=0, num_return_sequences=wanted.num_samples)
    found = []
    for number, row in enumerate(rows):
        ids = torch.tensor([prompt_ids(row.prompt, tokenizer, tools=row.tools)], device=model.device)
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Position ids are not supported for parameter efficient tuning")
            torch.manual_seed(seed * 1_000_003 + number)
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=config)
        found.append([text.strip() for text in tokenizer.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)])
        tick(number + 1)
    return found
