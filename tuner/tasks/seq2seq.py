"""`task: seq2seq`, `translate`, `summarize`: a text from a text, with T5 or BART. A row is `{"source": …, "target": …}`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.audit import audit, segments, statistics
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.written import WrittenRow, WrittenRows, coded, gate, texts_of, write_written
from tuner.errors import TuneError
from tuner.eval import texts as of_texts
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.model.adapt import measuring
from tuner.model.endings import Ending
from tuner.model.load import load_config
from tuner.model.written import of_written, row_losses, start_of, targets
from tuner.schema.data import Overlong
from tuner.schema.model import Dtype
from tuner.schema.seq2seq import Seq2Seq
from tuner.schema.trainer import Precision
from tuner.train import encoders
from tuner.train.encoders import save

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
ENDING = Ending(head="seq2seq")
KINDS = ("written", "conversation")
PROBED = 8  # rows whose loss is compared before saving and after loading
T5 = ("t5", "mt5", "umt5", "longt5")  # trained in bf16: what they compute is beyond the numbers of fp16
FIX = f"{labelled.MEND}; `task=translate` has `task.source_lang` and `task.target_lang`, which name two languages of several"
MARKED = ("mbart", "m2m_100", "nllb-moe", "seamless_m4t", "seamless_m4t_v2")  # whose texts carry marks of their language


def _task(run: Run) -> Seq2Seq:
    assert isinstance(run.recipe.task, Seq2Seq)
    return run.recipe.task


def tokenizer_of(run: Run) -> PreTrainedTokenizerBase:
    """The model's tokenizer. Where it names no end (BERT's, in Chinese T5 and BART), that of the model's configuration."""
    tokenizer = encoders.tokenizer_of(run)
    if tokenizer.eos_token_id is None:
        end = load_config(run.recipe.model, progress=run.tell).eos_token_id
        tokenizer.eos_token = None if end is None else tokenizer.convert_ids_to_tokens(end)
    return tokenizer


def _rows(
    run: Run, rows: Rows, *, tick: Callable[[int], None] = lambda done: None
) -> tuple[Found, list[tuple[str, str]], list[WrittenRow]]:
    """What was read, its texts, and their tokens."""
    found, pairs = labelled.numbered(labelled.read(run, rows, KINDS), lambda example: texts_of(example, _task(run)), run, fix=FIX)
    return found, pairs, list(coded(pairs, tokenizer_of(run), _task(run), tick=tick))


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens; audit; write what can teach."""
    with run.progress("rows prepared", len(rows)) as tick:
        found, _, every = _rows(run, rows, tick=tick)
    drop, tokenizer = run.recipe.data.overlong is Overlong.drop, tokenizer_of(run)
    kept = [row for row in every if not drop or not (row.source_cut or row.target_cut)]
    whole = [row.as_one for row in kept]
    audited = audit(whole, tokenizer, end_of_turn=str(tokenizer.eos_token or ""))
    audited |= {"rows_dropped": len(every) - len(kept), "first": found.places[0]}
    audited["targets_truncated"] = sum(row.target_cut for row in kept)
    gate(kept, audited, _task(run))
    if cut := audited["targets_truncated"]:
        run.tell(f"{cut:,} of {len(kept):,} targets are cut at task.max_target_length: where they end is not learned")
    write_written(folder, kept)
    encoders.noted(run, found, audited, statistics(whole), folder)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: what it reads, then what it is to write."""
    _, _, (row,) = _rows(run, rows[index : index + 1])
    one = row.as_one
    counts = {"tokens": len(one.ids), "supervised_tokens": one.supervised, "truncated": one.truncated}
    return {"place": rows.place(index), "source": "", **counts, "segments": segments(one, tokenizer_of(run))}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and what measures is there."""
    of_texts.ready(run.recipe.eval)
    _rows(run, rows[: run.recipe.eval.limit])


def possible(run: Run) -> None:
    """The adapter fits the model, which reads and writes in a format that it can; no weights are read."""
    family = load_config(run.recipe.model, progress=run.tell).model_type
    if family in MARKED:
        fix = "use T5, mT5, BART, Pegasus or Marian"
        raise TuneError(f"texts of {family} begin with marks of their language, which are not made for yet", "model.id", fix)
    if family in T5 and (run.recipe.trainer.precision is Precision.fp16 or run.recipe.model.dtype is Dtype.float16):
        key = "trainer.precision" if run.recipe.trainer.precision is Precision.fp16 else "model.dtype"
        raise TuneError(f"{family} was trained in bf16, and what it computes is beyond the numbers of fp16", key, "use bf16, or fp32")
    encoders.possible(run, ENDING)


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, ENDING, trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""

    def written(folder: Path) -> WrittenRows:
        if run.leads:
            write_written(folder, _rows(run, held_out(run))[2])
        return WrittenRows(folder)

    learned = partial(of_written, start_of(model), tokenizer_of(run))
    return encoders.trainer(run, model, args, callbacks, rows=WrittenRows(prepared), objective=learned, written=written)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared rows."""
    rows = WrittenRows(run.stage_folder("prepare"))
    first = [rows.row(index) for index in range(min(PROBED, len(rows)))]
    found = row_losses(measuring(model), first, of_written(start_of(model), tokenizer_of(run)))
    return sum(total for total, _ in found) / sum(count for _, count in found)


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every held-out row, and what the model writes of it, scored."""
    _, pairs, every = _rows(run, rows[: run.recipe.eval.limit])
    wanted, tokenizer = run.recipe.eval, tokenizer_of(run)
    scored = [Scored(prompt=[{"role": "user", "content": source}], reference=target) for source, target in pairs]
    with run.progress("held-out loss", len(every)) as tick:
        losses = row_losses(model, every, of_written(start_of(model), tokenizer), tick=tick)
    for row, (loss_sum, count) in zip(scored, losses, strict=True):
        row.loss_sum, row.tokens = loss_sum, count
    if wanted.generate:
        limit = _task(run).longest_answer(wanted.max_new_tokens)
        sources: list[Any] = [row.source for row in every]
        with run.progress("held-out answers", len(every)) as tick:
            answers = targets(model, tokenizer, sources, max_new_tokens=limit, batch_size=wanted.batch_size, tick=tick)
        for row, answer in zip(scored, answers, strict=True):
            row.answer = answer
        of_texts.score(scored, wanted)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss and perplexity; BLEU and chrF, where they are asked for."""
    return TEXT | of_texts.formulas(run.recipe.eval)
