"""`task: sft`: supervised fine-tuning on conversations. A row is `{"messages": [{"role": "user", …}, {"role": "assistant", …}]}`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data.audit import audit, gate, segments, statistics
from tuner.data.chat import TokenRow, answer_of, end_of_turn, how_turns_end, tokenize
from tuner.data.layout import Layout, read_all, shared_system
from tuner.data.load import Rows
from tuner.data.masks import Masker
from tuner.data.splits import held_out, tell_skipped
from tuner.data.store import TokenRows, write_packs, write_rows
from tuner.data.turns import Example, is_silent
from tuner.errors import BAD_RECIPE, GATE, Problem, TuneError
from tuner.eval.generate import answers, settings
from tuner.eval.loss import row_losses
from tuner.eval.scores import Scored
from tuner.eval.scores import score as score_answer
from tuner.model import packed
from tuner.model.adapt import attach, quantization, wrap
from tuner.model.load import DTYPES, load_base, load_empty, load_folder, load_tokenizer
from tuner.runs import write_json
from tuner.schema.adapter import Full
from tuner.schema.data import Overlong
from tuner.schema.task import Sft
from tuner.schema.trainer import Choice
from tuner.train.trainer import TokenTrainer


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The model's tokenizer with its chat template."""

    def make() -> PreTrainedTokenizerBase:
        tokenizer, origin = load_tokenizer(run.recipe.model, progress=run.tell)
        if origin.startswith("ChatML"):
            run.tell(f"chat template: {origin}")
        return tokenizer

    tokenizer: PreTrainedTokenizerBase = run.keep("tokenizer", make)
    return tokenizer


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Render, tokenize and mask; audit; write what can teach."""
    task = _task(run)
    tokenizer = tokenizer_of(run)
    layout, examples, misfits = _examples(run, rows)
    run.tell(f"the rows are laid out as {layout}")
    tell_skipped(run, misfits)
    if any(e["tools"] for e in examples) and not Masker(tokenizer).knows_tools:
        run.tell("the model's chat template knows no tools: they are written as text, calls as <tool_call>{…}</tool_call>")
    if told := how_turns_end(tokenizer):
        run.tell(told)
    data = run.recipe.data
    with run.progress("rows prepared", len(examples)) as tick:
        tokens = list(tokenize(examples, tokenizer, task, pieces=data.overlong is Overlong.split, tick=tick))
    whole = [row for row in tokens if not row.truncated] if data.overlong is Overlong.drop else tokens
    counts = {
        "conversations": len(examples),
        "rows_dropped": len(tokens) - len(whole),
        "rows_without_answer": sum(map(is_silent, examples)),
    }
    found = audit(whole, tokenizer, end_of_turn=end_of_turn(tokenizer)) | counts
    gate(found, max_length=task.max_length)
    kept = [row for row in whole if row.trained.any()]
    write_rows(folder, kept)
    source = {"path": data.path, "id": data.id, "format": data.format.value, "shape": layout.shape.value, "columns": layout.columns}
    facts = {"train": statistics(kept), "eval": {"rows": len(held_out(run))}, "source": source, "system": shared_system(examples)}
    if task.packing:
        packs = write_packs(folder, [len(row.ids) for row in kept], task.max_length)
        fill = sum(len(row.ids) for row in kept) / (len(packs) * task.max_length)
        facts["packs"] = {"rows": len(packs), "capacity": task.max_length, "fill": round(fill, 4)}
    if skipped := [asdict(problem) for problem in (*rows.skipped, *misfits)]:
        write_json(folder / "skipped.json", skipped)
        facts["skipped"] = {"rows": len(skipped), "first": [f"{p['where']}: {p['what']}" for p in skipped[:10]]}
    write_json(folder / "data.json", facts)
    write_json(folder / "audit.json", found)


def _examples(run: Run, rows: Rows) -> tuple[Layout, list[Example], list[Problem]]:
    """Rows as conversations. Raises TuneError (code 2) when they are something else."""
    layout, found, misfits = read_all(rows, run.recipe.data, place=rows.place)
    if layout.kind == "conversation":
        return layout, found, misfits
    fix = "name the columns that make a conversation: `data.columns={prompt: …, completion: …}`"
    if layout.kind in ("preference", "unpaired"):
        fix = "`data.shape=messages` (or `sharegpt`) learns each conversation whatever its label; or " + fix
    raise TuneError(f"`task: sft` learns from conversations, and these rows are laid out as {layout}", rows.place(0), fix)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it."""
    tokenizer = tokenizer_of(run)
    _, examples, _ = _examples(run, rows[index : index + 1])
    (row,) = tokenize(examples, tokenizer, _task(run))
    counts = {"tokens": len(row.ids), "supervised_tokens": int(row.trained.sum()), "truncated": row.truncated}
    return {"place": rows.place(index), **counts, "segments": segments(row, tokenizer)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says and end with an answer."""
    _held_out(run, rows, limit=run.recipe.eval.limit)


def possible(run: Run) -> None:
    """Adapter, padding-free training and packing fit the model, as far as its configuration tells: no weights are read."""
    quantization(run.recipe.adapter, DTYPES[run.recipe.model.dtype])
    _padding_free(run, wrap(load_empty(run.recipe.model, progress=run.tell), run.recipe.adapter))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; or with `trainable` the adapter on it (over a quantised base when asked); or the saved result over a fresh base."""
    model = run.recipe.model
    if tuned is not None and isinstance(run.recipe.adapter, Full):
        return load_folder(tuned, model, run.device)
    quantised = quantization(run.recipe.adapter, DTYPES[model.dtype]) if trainable else None
    # Full fine-tuning updates fp32 weights (autocast computes in the recipe's precision): a step is often below what bf16 can add.
    dtype = torch.float32 if trainable and isinstance(run.recipe.adapter, Full) else None
    base = load_base(model, run.device, progress=run.tell, quantization=quantised, dtype=dtype)
    if tuned is not None:
        return attach(base, tuned)
    return wrap(base, run.recipe.adapter) if trainable else base


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer, padding-free where the model can and the recipe lets it."""
    validation = None
    if run.recipe.trainer.eval_steps:
        validation = run.folder / "validation"
        write_rows(validation, [row for row, _ in _held_out(run, held_out(run), limit=None)])
    return TokenTrainer(
        model=model,
        args=args,
        rows=TokenRows(prepared),
        eval_rows=TokenRows(validation) if validation else None,
        tokenizer=tokenizer_of(run),
        padding_free=_padding_free(run, model),
        callbacks=callbacks,
    )


def _padding_free(run: Run, model: nn.Module) -> bool:
    """Decide, and switch the model's attention. Raises TuneError (code 2) when asked for and not possible."""
    choice, named = run.recipe.trainer.padding_free, run.recipe.model.attn_implementation
    if choice is Choice.never:
        return False
    causal: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    reason: str | None = f"model.attn_implementation={named} was asked for" if named else None
    if reason is None:
        before = causal.config._attn_implementation
        try:
            causal.set_attn_implementation(packed.ATTENTION)
            reason = packed.supported(model)
        except ValueError as error:
            reason = str(error).splitlines()[0]
        if reason is not None:
            causal.set_attn_implementation(before)
    if reason is None:
        return True
    if choice is Choice.always or _task(run).packing:
        key, asked = ("trainer.padding_free", "=always") if choice is Choice.always else ("task.packing", "")
        instead = "take `model.attn_implementation` out" if named else f"`{key}={'auto' if asked else 'false'}` trains with padding"
        raise TuneError(f"{key}{asked} cannot be had: {reason}", key, instead, code=BAD_RECIPE)
    run.tell(f"training with padding: {reason}")
    return False


def _held_out(run: Run, rows: Rows, *, limit: int | None) -> list[tuple[TokenRow, Scored]]:
    _, examples, _ = _examples(run, rows)
    found = [e for e in examples if e["messages"][-1]["role"] == "assistant"][:limit]
    if not found:
        raise TuneError("no held-out conversation ends with an assistant message", "data.eval_path", "the last message is what is measured")
    tokenizer = tokenizer_of(run)
    tokens = list(tokenize(found, tokenizer, _task(run)))
    if not any(row.trained[1:].any() for row in tokens):
        what = f"no token of {len(tokens)} held-out rows would be measured: all of them are cut before the answer"
        raise TuneError(what, "task.max_length", f"raise it (now {_task(run).max_length} tokens) or shorten the rows", code=GATE)
    scored = [Scored(prompt=e["messages"][:-1], reference=answer_of(e, tokenizer), tools=e["tools"]) for e in found]
    return list(zip(tokens, scored, strict=True))


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
    return scored


def save(run: Run, model: Any, folder: Path) -> None:
    """Weights (the adapter, or all), tokenizer with its chat template, generation settings."""
    tokenizer = tokenizer_of(run)
    if isinstance(run.recipe.adapter, Full):
        model.to(DTYPES[run.recipe.model.dtype])
    model.save_pretrained(str(folder))
    tokenizer.save_pretrained(str(folder))
    settings(tokenizer).save_pretrained(str(folder))


def _task(run: Run) -> Sft:
    assert isinstance(run.recipe.task, Sft)
    return run.recipe.task
