"""`task: pretrain`: texts as they are, to read on or begin from nothing. A row is `{"text": …}`, or a line of a text file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import documents, labelled
from tuner.data.audit import segments, statistics
from tuner.data.chat import TokenRow
from tuner.data.load import Rows
from tuner.data.splits import held_out
from tuner.data.store import TokenRows, write_rows
from tuner.data.streamed_texts import stream
from tuner.errors import GATE, TuneError
from tuner.eval.loss import row_losses, token_loss
from tuner.eval.scores import TEXT, Formula, Scored
from tuner.schema.task import Pretrain
from tuner.train import causal
from tuner.train.causal import load, save, tokenizer_of
from tuner.train.encoders import noted
from tuner.train.make import make_trainer, validation
from tuner.train.padding import padding_free

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PROBED = 4  # pieces whose loss is compared before saving and after loading
SHOWN = 400  # characters of a held-out text in the report


def _task(run: Run) -> Pretrain:
    assert isinstance(run.recipe.task, Pretrain)
    return run.recipe.task


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Texts to tokens, end to end; what is trained is all of them but each piece's first."""
    found, tokenizer, length = labelled.read(run, rows, ("text",)), tokenizer_of(run), _task(run).max_length
    coded = list(documents.pieces([e["text"] for e in found.examples], tokenizer, length))
    tokens = sum(len(row.ids) for row in coded)
    if tokens == len(coded):
        raise TuneError(f"{len(found.examples)} texts have no token to predict", "text audit", "look at `data.columns`", code=GATE)
    packs = documents.write(folder, coded, length)
    audited: dict[str, Any] = {
        "rows": len(found.examples),
        "tokens": tokens,
        "supervised_tokens": tokens - len(coded),
        "share": (tokens - len(coded)) / tokens,
        "rows_fully_masked": 0,
        "rows_truncated": 0,
        "rows_split": sum(row.piece == 1 for row in coded),
        "sample": segments(coded[0], tokenizer),
    }
    filled = {"rows": packs, "capacity": length, "fill": round(tokens / (packs * length), 4)}
    train = statistics(coded) | {"rows": len(found.examples)}  # not the pieces that they are in where a row ends
    noted(run, found, audited, train, folder, system=None, packs=filled)


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """The first piece of a training text as the model sees it."""
    row, *others = _pieces(run, rows[index : index + 1])
    counts = {"tokens": len(row.ids), "supervised_tokens": len(row.ids) - 1, "truncated": bool(others)}
    return {"place": rows.place(index), "source": "", **counts, "segments": segments(row, tokenizer_of(run))}


def _pieces(run: Run, rows: Rows) -> list[TokenRow]:
    """Texts by themselves, each in pieces of at most `max_length` tokens."""
    texts = [e["text"] for e in labelled.read(run, rows, ("text",)).examples]
    return list(documents.pieces(texts, tokenizer_of(run), _task(run).max_length, alone=True))


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are texts with something to predict."""
    if not any(len(row.ids) > 1 for row in _pieces(run, rows[: run.recipe.eval.limit])):
        raise TuneError("no held-out text has a token to predict", "data", "hold out others", code=GATE)


def possible(run: Run) -> None:
    """Adapter and padding-free training, which rows of several texts need, fit the model, as far as its configuration tells."""
    causal.possible(run, packing=True)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A TokenTrainer over full rows whose texts do not see each other."""

    def written(folder: Path) -> TokenRows:
        if run.leads:
            write_rows(folder, _pieces(run, held_out(run)))
        return TokenRows(folder)

    rows: Any = TokenRows(prepared)
    if run.recipe.data.streaming:
        rows = stream(run, tokenizer_of(run), _task(run).max_length, micro=args.per_device_train_batch_size)
    options: dict[str, Any] = {"tokenizer": tokenizer_of(run), "padding_free": padding_free(run, model, packing=True)}
    return make_trainer(run, model, args, callbacks, rows=rows, eval_rows=validation(run, written), **options)


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss in nats a token of the first prepared pieces."""
    return token_loss(model, TokenRows(run.stage_folder("prepare")).first(PROBED))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss of every piece of the held-out texts."""
    coded, tokenizer = _pieces(run, rows[: run.recipe.eval.limit]), tokenizer_of(run)
    with run.progress("held-out texts", len(coded)) as tick:
        losses = row_losses(model, coded, tick=tick)
    found = []
    for row, (loss, count) in zip(coded, losses, strict=True):
        text = str(tokenizer.decode(row.ids.tolist()))[:SHOWN]
        found.append(Scored(prompt=[{"role": "user", "content": text}], reference="", loss_sum=loss, tokens=count))
    return found


def formulas(run: Run) -> dict[str, Formula]:
    """Loss and perplexity."""
    return TEXT
