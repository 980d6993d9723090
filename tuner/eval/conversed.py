"""Held-out conversations of tasks that chat: `measured(run, rows, tokenizer, limit=None)`, then `score(run, model, found, tokenizer)`."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedTokenizerBase

from tuner.context import Run
from tuner.data.chat import TokenRow, answer_of, tokenize
from tuner.data.conversations import conversations
from tuner.data.load import Rows
from tuner.errors import GATE, TuneError
from tuner.eval import calls
from tuner.eval import texts as of_texts
from tuner.eval.answered import over
from tuner.eval.generate import answers, sampled
from tuner.eval.loss import row_losses
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.schema.task import Sft

Measured = list[tuple[TokenRow, Scored]]


def check(run: Run, rows: Rows, tokenizer: PreTrainedTokenizerBase) -> None:
    """Held-out rows are laid out as the recipe says and end with an answer; what measures answers is there."""
    of_texts.ready(run.recipe.eval)
    measured(run, rows, tokenizer, limit=run.recipe.eval.limit)


def measured(run: Run, rows: Rows, tokenizer: PreTrainedTokenizerBase, *, limit: int | None) -> Measured:
    """Held-out conversations that end with an answer. Raises TuneError where there is none, or nothing of any would be measured."""
    task = run.recipe.task
    assert isinstance(task, Sft)
    found, calling = [e for source in conversations(run, rows) for e in source.examples], "tool_calls" in run.recipe.eval.metrics
    if calling:
        found = [e | {"messages": calls.up_to_call(e["messages"])} for e in found]
    found = [e for e in found if e["messages"][-1]["role"] == "assistant"][:limit]
    if calling and not any(e["tools"] for e in found):
        fix = "name the column (`data.columns={tools: …}`), or leave `tool_calls` out of `eval.metrics`"
        raise TuneError("`tool_calls` measures calls of functions, and no held-out row has `tools`", "eval.metrics", fix)
    if not found:
        raise TuneError("no held-out conversation ends with an assistant message", "data.eval_path", "the last message is what is measured")
    tokens = list(tokenize(found, tokenizer, task))
    if not any(row.trained[1:].any() for row in tokens):
        what = f"no token of {len(tokens)} held-out rows would be measured: all of them are cut before the answer"
        raise TuneError(what, "task.max_length", f"raise it (now {task.max_length} tokens) or shorten the rows", code=GATE)
    scored = [Scored(prompt=e["messages"][:-1], reference=answer_of(e, tokenizer), tools=e["tools"]) for e in found]
    return list(zip(tokens, scored, strict=True))


def score(run: Run, model: Any, pairs: Measured, tokenizer: PreTrainedTokenizerBase) -> list[Scored]:
    """Loss of every held-out row, and its generated answer scored."""
    wanted = run.recipe.eval
    with run.progress("held-out loss", len(pairs)) as tick:
        losses = row_losses(model, [tokens for tokens, _ in pairs], tick=tick)
    scored = [row for _, row in pairs]
    for row, (loss_sum, count) in zip(scored, losses, strict=True):
        row.loss_sum, row.tokens = loss_sum, count
    if wanted.generate:
        with run.progress("held-out answers", len(pairs)) as tick:
            if wanted.temperature:
                texts = sampled(model, tokenizer, scored, wanted=wanted, seed=run.recipe.seed, tick=tick)
            else:
                options = {"max_new_tokens": wanted.max_new_tokens, "batch_size": wanted.batch_size}
                texts = [[text] for text in answers(model, tokenizer, scored, tick=tick, **options)]
        for row, said in zip(scored, texts, strict=True):
            row.answer, row.samples = said[0], said[1:] and said
            if "tool_calls" in wanted.metrics and row.tools:
                row.scores = over([calls.score(text, row.reference, row.tools) for text in said])
        of_texts.score(scored, wanted)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss and perplexity; BLEU and chrF of the answers, where they are asked for."""
    return TEXT | of_texts.formulas(run.recipe.eval)
