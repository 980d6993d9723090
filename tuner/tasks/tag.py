"""`task: tag`: a label for each word, such as named entities. A row is `{"tokens": ["colon", …], "tags": ["B-Disease", …]}`."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from tuner.context import Run
from tuner.data import labelled
from tuner.data.classes import labels_in
from tuner.data.labelled import Found, LabelRow
from tuner.data.labels import OUTSIDE, Labels
from tuner.data.load import Rows
from tuner.data.shapes import Example
from tuner.data.store import IGNORE
from tuner.data.turns import Misfit
from tuner.errors import ENVIRONMENT, TuneError
from tuner.eval.labels import counted, f1, macro_f1, precision, predict, recall
from tuner.eval.scores import Formula, Scored, mean_loss
from tuner.registry import load as load_package
from tuner.schema.task import Tag
from tuner.train import encoders
from tuner.train import labelled as common
from tuner.train.encoders import save, tokenizer_of

__all__ = ["check", "formulas", "load", "possible", "prepare", "probe", "save", "score", "show", "trainer"]
PREFIXES = ("B-", "I-", "E-", "S-", "L-", "U-")  # of the schemes in which tags make entities


def _task(run: Run) -> Tag:
    assert isinstance(run.recipe.task, Tag)
    return run.recipe.task


def labels_of(run: Run) -> Labels:
    """The recipe's labels, else those of the training rows."""
    return labels_in(run, lambda rows: labelled.read(run, rows, ("tagged",)), _tags)


def _tags(example: Example) -> list[Any]:
    if not example["tags"]:
        raise Misfit("there are no words")
    tags: list[Any] = example["tags"]
    return tags


def _entities(labels: Labels) -> bool:
    """Whether the tags make entities: all but `O` say where one begins or goes on."""
    marked = [name for name in labels.names if name != OUTSIDE]
    return OUTSIDE in labels.names and all(name.startswith(PREFIXES) for name in marked)


def _seqeval() -> Any:
    try:
        return load_package("seqeval.metrics.sequence_labeling")
    except ImportError as error:
        raise TuneError(
            "entities are measured with seqeval", "task", "pip install 'tuner[tag]', or set eval=none", code=ENVIRONMENT
        ) from error


def _rows(run: Run, rows: Rows) -> tuple[Found, list[LabelRow], list[list[int]]]:
    labels = labels_of(run)
    read = labelled.read(run, rows, ("tagged",))
    found, numbers = labelled.numbered(read, lambda example: [labels.number(tag) for tag in _tags(example)], run)
    return found, list(labelled.encoded(found, numbers, tokenizer_of(run), _task(run).max_length)), numbers


def prepare(run: Run, rows: Rows, folder: Path) -> None:
    """Words to pieces, each tag at its word's first one; audit; write what can teach."""
    found, coded, numbers = _rows(run, rows)
    counts = Counter(labels_of(run).names[tag] for row in numbers for tag in row)
    shown = next((i for i, tags in enumerate(numbers) if len(set(tags)) > 1), 0)
    common.write(run, found, coded, labels_of(run), counts, folder, sample=_segments(run, coded[shown]), unit="word")
    if all(name.isdecimal() for name in labels_of(run).names):
        run.tell(
            f"the tags are numbers, 0 to {labels_of(run).names[-1]}, of which words alone are measured: entities need their names, in the"
        )
        run.tell("order of the numbers: `task.labels=[O, B-PER, I-PER, …]`")


def _segments(run: Run, row: LabelRow) -> list[dict[str, Any]]:
    """Pieces of the row, a tag behind the word that has one."""
    tokenizer, names, segments = tokenizer_of(run), labels_of(run).names, list[dict[str, Any]]()
    starts = [i for i, tag in enumerate(row.label) if tag != IGNORE]
    for start, end in zip(starts, [*starts[1:], len(row.ids)], strict=True):
        name = names[row.label[start]]
        word = str(tokenizer.decode(row.ids[start:end].tolist(), skip_special_tokens=True)).strip()
        segments.append({"text": f"{word} ", "trained": False} if name == OUTSIDE else {"text": f"{word}/{name} ", "trained": True})
    return segments


def show(run: Run, rows: Rows, index: int) -> dict[str, Any]:
    """One training row as the model sees it, and its tags."""
    _, (row,), _ = _rows(run, rows[index : index + 1])
    counts = {"tokens": len(row.ids), "supervised_tokens": row.supervised, "truncated": row.truncated}
    return {"place": rows.place(index), "source": "", **counts, "segments": _segments(run, row)}


def check(run: Run, rows: Rows) -> None:
    """Held-out rows are laid out as the recipe says, their tags are known, and something is there to measure them with."""
    if _entities(labels_of(run)):
        _seqeval()
    common.measurable(_rows(run, rows[: run.recipe.eval.limit])[1], _task(run).max_length)


def possible(run: Run) -> None:
    """The adapter fits the model with its head."""
    encoders.possible(run, common.ending(run, labels_of(run)))


def load(run: Run, *, trainable: bool = False, tuned: Path | None = None) -> nn.Module:
    """The base with a new head; the adapter on it; or the saved result over a fresh base."""
    return encoders.load(run, common.ending(run, labels_of(run)), trainable=trainable, tuned=tuned)


def trainer(run: Run, model: nn.Module, args: TrainingArguments, prepared: Path, callbacks: list[TrainerCallback]) -> Trainer:
    """A trainer over what `prepare` wrote."""
    learned = partial(common.objective, run, labels_of(run))
    return common.trainer(run, model, args, prepared, callbacks, learned=learned, measured=lambda rows: _rows(run, rows)[1])


def probe(run: Run, model: nn.Module) -> float:
    """Mean loss of the first prepared rows."""
    return common.probe(run, model, labels_of(run))


def score(run: Run, model: nn.Module, rows: Rows) -> list[Scored]:
    """Loss and predicted tags of every held-out row. A word that is cut off, or has no piece, is `O`: it was not found."""
    labels = labels_of(run)
    found, coded, numbers = _rows(run, rows[: run.recipe.eval.limit])
    with run.progress("held-out rows", len(coded)) as tick:
        predicted = predict(model, coded, common.objective(run, labels), tick=tick)
    scored = []
    for example, row, numbers_true, (logits, loss, count) in zip(found.examples, coded, numbers, predicted, strict=True):
        true = [labels.names[number] for number in numbers_true]
        said = [OUTSIDE] * len(true)
        for word, number in zip(row.words, logits.argmax(1)[row.label != IGNORE], strict=True):
            said[word] = labels.names[number]
        words = [str(token) for token in example["tokens"]]
        one = Scored(
            prompt=[{"role": "user", "content": " ".join(words)}],
            reference=_written(words, true),
            answer=_written(words, said),
            loss_sum=loss,
            tokens=count,
        )
        one.counts = {"right": float(np.sum(np.asarray(said) == np.asarray(true))), "words": float(len(true))}
        if _entities(labels):
            one.counts |= _by_entity(said, true)
        else:
            for name in {*said, *true}:
                mine, there = ({i for i, tag in enumerate(tags) if tag == name} for tags in (said, true))
                one.counts |= counted(mine, there, f"/{name}")
        scored.append(one)
    return scored


def _by_entity(said: list[str], true: list[str]) -> dict[str, float]:
    """Entities that are right by kind, first and last word (CoNLL-2000's counting, through seqeval)."""
    entities = _seqeval().get_entities
    return counted(set(entities(said)), set(entities(true)))


def _written(words: list[str], tags: list[str]) -> str:
    """What is tagged: `adenomatous/B-Disease polyposis/I-Disease`."""
    return " ".join(f"{word}/{tag}" for word, tag in zip(words, tags, strict=True) if tag != OUTSIDE)


def formulas(run: Run) -> dict[str, Formula]:
    """Loss, the share of words tagged right, and F1: of entities where the tags make them, else of the tags."""
    labels = labels_of(run)
    found: dict[str, Formula] = {"loss": mean_loss, "accuracy": lambda sums: sums["right"] / sums["words"]}
    if _entities(labels):
        return found | {"f1": f1, "precision": precision, "recall": recall}
    return found | {"f1_macro": macro_f1(labels.names)}
