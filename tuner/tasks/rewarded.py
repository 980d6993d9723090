"""`task: grpo`, `rloo`, `online_dpo`: answers of the model's own, and what they are worth. A row is `{"prompt": …, "answer": …}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import prompts
from tuner.data.asked import Asked, PromptRows, write
from tuner.data.audit import segments, statistics
from tuner.data.chat import TokenRow
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.errors import GATE, TuneError
from tuner.eval.generate import answers
from tuner.eval.loss import token_loss
from tuner.eval.scores import Formula, Scored
from tuner.model.policy import of_rewards
from tuner.model.rewards import Answer, Score, scorer
from tuner.schema.rewarded import REFERENCED, Rewarded
from tuner.train import causal
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.encoders import noted
from tuner.train.make import make_trainer
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # prompts whose loss is compared before saving and after loading


def _task(run: Run) -> Rewarded:
    assert isinstance(run.recipe.task, Rewarded)
    return run.recipe.task


def _prompts(run: Run, rows: Rows, **options: Any) -> tuple[Found, list[Asked]]:
    referenced = any(name in _task(run).rewards for name in REFERENCED)
    return prompts.read(run, rows, tokenizer_of(run), referenced=referenced, **options)


def _scorer(run: Run) -> Score:
    score: Score = run.keep("rewards", lambda: scorer(_task(run), run.device, run.tell))
    return score


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Prompts rendered and tokenized; those that are too long are left out."""
    with run.progress("rows prepared", len(rows)) as tick:
        found, asked = _prompts(run, rows, tick=tick)
    kept = [one for one in asked if len(one.ids) <= _task(run).max_length]
    if not kept:
        what = f"all {len(asked):,} prompts are longer than task.max_length ({_task(run).max_length} tokens)"
        raise TuneError(what, found.places[0], "raise `task.max_length`", code=GATE)
    if len(kept) < len(asked):
        run.tell(f"{len(asked) - len(kept):,} of {len(asked):,} rows are left out: their prompts are longer than task.max_length")
    write(folder, kept)
    coded = [prompts.token_row(one) for one in kept]
    audited: dict[str, Any] = {
        "rows": len(asked),
        "tokens": sum(len(row.ids) for row in coded),
        "supervised_tokens": 0,
        "prompts": len(kept),
        "rows_fully_masked": 0,
        "rows_truncated": 0,
        "rows_dropped": len(asked) - len(kept),
        "sample": _segments(run, kept[0]),
    }
    noted(run, found, audited, statistics(coded), folder, system=None)


def _segments(run: Run, asked: Asked) -> list[dict[str, Any]]:
    named = " + ".join(f"{weight:g} × {name}" for name, weight in _task(run).rewards.items())
    said = f"\n── rewarded: {named}" + (f"; the reference: {asked.reference}" if asked.reference else "") + " ──"
    return [*segments(prompts.token_row(asked), tokenizer_of(run)), {"text": said, "trained": False}]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """A prompt as the model sees it, and what its answers are measured by."""
    _, (asked,) = _prompts(run, rows[index : index + 1])
    counts = {"tokens": len(asked.ids), "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, asked)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are prompts, with a reference where a reward reads one; reward models and libraries are there."""
    _prompts(run, rows[: run.recipe.eval.limit])
    _scorer(run)


def possible(run: Run) -> None:
    """The adapter fits the model, as far as its configuration tells."""
    causal.possible(run)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote, which samples before each step."""
    free = padding_free(run, model, packing=False)
    options: dict[str, Any] = {"padding_free": free, "at_once": run.recipe.eval.batch_size}
    learned = of_rewards(_task(run), tokenizer_of(run), _scorer(run), **options)
    rows: dict[str, Any] = {"rows": PromptRows(prepared), "eval_rows": None, "tokenizer": tokenizer_of(run)}
    return make_trainer(run, model, args, callbacks, padding_free=free, objective=learned, **rows)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared prompts: none is learned, all tell one model from another."""
    rows = PromptRows(run.stage_folder("prepare"))
    ids = [np.asarray(rows[index]["asked"].ids, np.int32) for index in range(min(PROBED, len(rows)))]
    whole = [TokenRow(ids=row, trained=np.ones(len(row), np.bool_), truncated=False) for row in ids]
    return token_loss(model, whole)


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """What the likeliest answer to each held-out prompt is worth: `reward`, and of several rewards each by its name."""
    _, asked = _prompts(run, rows[: run.recipe.eval.limit])
    task, tokenizer = _task(run), tokenizer_of(run)
    scored = [Scored(prompt=one.prompt, reference=one.reference, tools=one.tools) for one in asked]
    options: dict[str, Any] = {"max_new_tokens": task.max_completion_length, "batch_size": run.recipe.eval.batch_size}
    with run.progress("held-out answers", len(scored)) as tick:
        texts = answers(model, tokenizer, scored, tick=tick, **options)
    said = [
        Answer(text=text, tokens=len(tokenizer(text, add_special_tokens=False).input_ids), prompt=one.prompt, reference=one.reference)
        for one, text in zip(asked, texts, strict=True)
    ]
    for row, text, given in zip(scored, texts, _scorer(run)(said), strict=True):
        row.answer = text
        row.scores = {"reward": sum(given.values())} | ({f"reward/{n}": v for n, v in given.items()} if len(given) > 1 else {})
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """None: rewards are of single answers."""
    return {}
