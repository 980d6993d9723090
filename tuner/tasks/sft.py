"""`task: sft`: supervised fine-tuning on conversations. A row is `{"messages": [{"role": "user", …}, {"role": "assistant", …}]}`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data.audit import segments
from tuner.data.chat import TokenRow, answer_of, tokenize
from tuner.data.conversations import conversations
from tuner.data.conversations import prepare as prepare_conversations
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import TokenRows, write_rows
from tuner.data.streamed import stream
from tuner.errors import GATE, TuneError
from tuner.eval import texts as of_texts
from tuner.eval.generate import answers
from tuner.eval.loss import row_losses
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.eval.scores import score as score_answer
from tuner.model.adapt import measuring
from tuner.schema.task import Sft
from tuner.train import causal
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.make import make_trainer, validation
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # conversations whose loss is compared before saving and after loading


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Render, tokenize and mask; audit; write what can teach."""
    prepare_conversations(run, rows, tokenizer_of(run), _task(run), folder)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it."""
    tokenizer = tokenizer_of(run)
    (source,) = conversations(run, rows[index : index + 1])
    (row,) = tokenize(source.examples, tokenizer, _task(run))
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    return {"place": rows.place(index), "source": source.name, **counts, "segments": segments(row, tokenizer)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says and end with an answer; what measures answers is there."""
    of_texts.ready(run.recipe.eval)
    _held_out(run, rows, limit=run.recipe.eval.limit)


def possible(run: Run) -> None:
    """Adapter, padding-free training and packing fit the model, as far as its configuration tells: no weights are read."""
    causal.possible(run, packing=_task(run).packing)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer, padding-free where the model can and the recipe lets it."""

    def written(folder: Path) -> TokenRows:
        if run.leads:
            write_rows(folder, [row for row, _ in _held_out(run, held_out(run), limit=None)])
        return TokenRows(folder)

    rows: Any = TokenRows(prepared)
    if run.recipe.data.streaming:
        rows = stream(run, tokenizer_of(run), _task(run), micro=args.per_device_train_batch_size)
    return make_trainer(
        run,
        model,
        args,
        callbacks,
        rows=rows,
        eval_rows=validation(run, written),
        tokenizer=tokenizer_of(run),
        padding_free=padding_free(run, model, packing=_task(run).packing),
        fixed=args.per_device_train_batch_size * _task(run).max_length if run.recipe.trainer.torch_compile else None,
    )


def _held_out(run: Run, rows: Rows, *, limit: int | None) -> list[tuple[TokenRow, Scored]]:
    found = [e for source in conversations(run, rows) for e in source.examples if e["messages"][-1]["role"] == "assistant"][:limit]
    if not found:
        raise TuneError("no held-out conversation ends with an assistant message", "data.eval_path", "the last message is what is measured")
    tokenizer = tokenizer_of(run)
    tokens = list(tokenize(found, tokenizer, _task(run)))
    if not any(row.trained[1:].any() for row in tokens):
        what = f"no token of {len(tokens)} held-out rows would be measured: all of them are cut before the answer"
        raise TuneError(what, "task.max_length", f"raise it (now {_task(run).max_length} tokens) or shorten the rows", code=GATE)
    scored = [Scored(prompt=e["messages"][:-1], reference=answer_of(e, tokenizer), tools=e["tools"]) for e in found]
    return list(zip(tokens, scored, strict=True))


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared conversations."""
    found = row_losses(measuring(model), TokenRows(run.stage_folder("prepare")).first(PROBED))
    return sum(total for total, _ in found) / sum(count for _, count in found)


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, and its generated answer scored."""
    pairs, tokenizer, wanted = _held_out(run, rows, limit=run.recipe.eval.limit), tokenizer_of(run), run.recipe.eval
    with run.progress("held-out loss", len(pairs)) as tick:
        losses = row_losses(model, [tokens for tokens, _ in pairs], tick=tick)
    scored = [row for _, row in pairs]
    for row, (loss_sum, count) in zip(scored, losses, strict=True):
        row.loss_sum, row.tokens = loss_sum, count
    if wanted.generate:
        with run.progress("held-out answers", len(pairs)) as tick:
            texts = answers(model, tokenizer, scored, max_new_tokens=wanted.max_new_tokens, batch_size=wanted.batch_size, tick=tick)
        for row, text in zip(scored, texts, strict=True):
            row.answer, row.scores = text, score_answer(text, row.reference, wanted.metrics)
        of_texts.score(scored, wanted.metrics)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss and perplexity; BLEU and chrF of the answers, where they are asked for."""
    return TEXT | of_texts.formulas(run.recipe.eval)


def _task(run: Run) -> Sft:
    assert isinstance(run.recipe.task, Sft)
    return run.recipe.task
