"""`task: qa`: where in a text the answer stands. A row has `question`, `context`, `answers`: `{"text": […], "answer_start": […]}`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import answers, labelled
from tuner.data.answers import NONE, Placed
from tuner.data.audit import statistics
from tuner.data.labelled import Found
from tuner.data.load import Rows
from tuner.data.splits import split
from tuner.data.store import LabelRows, write_labelled
from tuner.data.windows import Window, has_room, windows
from tuner.errors import GATE, TuneError
from tuner.eval.labels import predict
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.eval.spans import compared, likely
from tuner.model.endings import Ending, ending_of
from tuner.model.objectives import Objective, of_spans
from tuner.schema.passages import Qa
from tuner.train import encoders
from tuner.train import labelled as common
from tuner.train.encoders import save, tokenizer_of

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
NAMES = ("start", "end")  # of the model's outputs
KINDS = ("answered",)


def _task(run: Run) -> Qa:
    assert isinstance(run.recipe.task, Qa)
    return run.recipe.task


def _ending(run: Run) -> Ending:
    return ending_of(_task(run), NAMES, tokenizer_of(run).pad_token_id)


def _objective(run: Run, lengths: Any = None) -> Objective:
    return of_spans(tokenizer_of(run), lengths=lengths)


def _placed(run: Run, rows: Rows) -> tuple[Found, list[Placed]]:
    def place(example: dict[str, Any]) -> Placed:
        has_room(example["question"], tokenizer_of(run), _task(run))
        return answers.placed(example)

    return labelled.numbered(labelled.read(run, rows, KINDS), place, run, fix="mend or remove this row")


def _rows(run: Run, rows: Rows, *, tick: Callable[[int], None] = lambda done: None) -> tuple[Found, list[Placed], list[Window]]:
    found, places = _placed(run, rows)
    return found, places, list(windows(found.examples, places, tokenizer_of(run), _task(run), tick=tick))


def _some_without(run: Run) -> bool:
    """Whether some training row has no answer: then the model may say so."""
    found: bool = run.keep("some_without", lambda: any(not e["answers"] for e in labelled.read(run, split(run)[0], KINDS).examples))
    return found


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Questions and texts to windows; audit; write what can teach."""
    with run.progress("rows prepared", len(rows)) as tick:
        found, places, coded = _rows(run, rows, tick=tick)
    answered = sum(window.answered for window in coded)
    if not answered:
        what = f"no window of {len(found.examples)} rows holds a whole answer; the first: {found.places[0]}"
        raise TuneError(what, "answer audit", "raise `task.max_length` and `task.stride`, or look at `data.columns`", code=GATE)
    tokens = sum(len(window.ids) for window in coded)
    without, mended, guessed = (
        sum(not p.spans for p in places),
        sum(p.mended for p in places),
        sum(p.guessed for p in places),
    )
    audited = {
        "rows": len(coded),
        "tokens": tokens,
        "supervised_tokens": tokens,
        "rows_fully_masked": 0,
        "rows_truncated": 0,
        "rows_dropped": 0,
        "labels": {"with the answer": answered, "without it": len(coded) - answered},
        "labels_of": "window",
        "sample": _segments(found, places, next(window for window in coded if window.answered)),
        "answers": {"rows": len(places), "rows_without": without, "mended": mended, "in_several_places": guessed},
    }
    run.tell(f"{len(places):,} questions, {without:,} of them without an answer, are {len(coded):,} windows of text")
    if mended:
        run.tell(f"answers that stand a few characters away from where their rows say, and were mended: {mended:,}")
    if guessed:
        run.tell(f"answers that stand in several places, of which the first is learned (give `answer_start`): {guessed:,}")
    write_labelled(folder, coded)
    encoders.noted(run, found, audited, statistics(list(coded)), folder, labels=list(NAMES), some_without=bool(without))


def _segments(found: Found, places: list[Placed], window: Window) -> list[dict[str, Any]]:
    """The question, and the window's part of the text with its answer told apart."""
    example, inside = found.examples[window.index], window.offsets[window.offsets[:, 0] >= 0]
    begin, end = int(inside[0, 0]), int(inside[-1, 1])
    first, last = places[window.index].spans[0] if window.answered else (end, end)
    parts = [(f"{example['question']} → {example['context'][begin:first]}", False), (example["context"][first:last], True)]
    parts += [(example["context"][last:end], False)] if window.answered else [(f" {NONE}", True)]
    return [{"text": text, "trained": trained} for text, trained in parts if text]


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it: the window with its answer, and how many there are."""
    found, places, coded = _rows(run, rows[index : index + 1])
    shown = next((window for window in coded if window.answered), coded[0])
    parts = _segments(found, places, shown)
    if len(coded) > 1:
        parts.append({"text": f"\n── one of {len(coded)} windows ──", "trained": False})
    counts = {"tokens": sum(len(window.ids) for window in coded), "supervised_tokens": None, "truncated": False}
    return {"place": rows.place(index), "source": "", **counts, "segments": parts}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, and their answers stand where they are said to."""
    _placed(run, rows[: run.recipe.eval.limit])


def possible(run: Run) -> None:
    """The adapter fits the model with its head; its tokenizer tells where tokens stand."""
    if not tokenizer_of(run).is_fast:
        raise TuneError(
            "the model's tokenizer does not tell where in a text its tokens stand", "model.id", "choose a model with a fast one"
        )
    encoders.possible(run, _ending(run))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, _ending(run), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    learned = partial(_objective, run)
    return common.trainer(run, model, args, prepared, callbacks, learned=learned, measured=lambda rows: _rows(run, rows)[2])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared windows."""
    return common.probe_of(run, model, LabelRows(run.stage_folder("prepare")), _objective(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """The answer to every held-out row, and what it is worth."""
    found, _, coded = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out windows", len(coded)) as tick:
        predicted = predict(model, coded, _objective(run), tick=tick)
    scored, both = list[Scored](), zip(coded, predicted, strict=True)
    some_without = any(not example["answers"] for example in found.examples)
    for index, group in groupby(both, key=lambda pair: pair[0].index):
        example, mine = found.examples[index or 0], list(group)
        outputs = [logits for _, (logits, _, _) in mine]
        (best, *_) = likely([w for w, _ in mine], outputs, example["context"], _task(run).max_answer_length, nothing=_some_without(run))
        true = [text for text, _ in example["answers"]]
        one = Scored(
            prompt=[{"role": "user", "content": f"{example['question']}\n\n{example['context']}"}],
            reference=true[0] if true else NONE,
            answer=best.text or NONE,
            loss_sum=sum(loss for _, (_, loss, _) in mine),
            tokens=sum(count for _, (_, _, count) in mine),
        )
        one.scores = compared(best.text, true, some_without=some_without)
        scored.append(one)
    return scored


def formulas(run: Run) -> dict[str, Formula]:
    """Loss, a window; each row has scores of its own."""
    return {"loss": mean_loss}
