"""The row layouts that are known: `SHAPES[RowShape.alpaca]` says which columns it needs, and reads such a row as an Example.

An Example is one of ten kinds, whatever the rows look like: `conversation` {messages, tools, images}, `preference` {prompt, chosen,
rejected}, `unpaired` {prompt, completion, label}, `written` {source, target} or {texts}, `labelled` {text, text_pair, label, score, image,
mask or audio}, `related` {anchor, positive, negatives}, `tagged` {tokens, tags},
`answered` {question, context, answers}, `boxed` {image, objects}, `text` {text}.
Messages are Transformers': role, content (text, or parts), tool_calls, reasoning_content; `train: false` keeps the loss off one of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from tuner.data import answers, found, turns
from tuner.data.turns import Misfit
from tuner.schema.data import RowShape

Row = dict[str, Any]
Example = dict[str, Any]

# Names that other people give to our columns, tried where ours is not there.
ALSO = {
    "messages": ("conversation", "dialog", "dialogue"),
    "conversations": ("conversation",),
    "prompt": ("query", "input", "question"),
    "completion": ("response", "output", "answer"),
    "question": ("query",),
    "answer": ("response",),
    "output": ("response",),
    "input": ("context",),
    "chosen": ("preferred", "accepted"),
    "rejected": ("dispreferred",),
    "text": ("sentence", "content", "document", "article", "dialogue", "transcription", "transcript"),
    "summary": ("highlights", "abstract"),
    "source": ("src",),
    "target": ("tgt",),
    "label": ("labels", "category", "class"),
    "query": ("question",),
    "passage": ("document", "text"),
    "sentence1": ("premise", "text1"),
    "sentence2": ("hypothesis", "text2"),
    "anchor": ("query",),
    "positive": ("pos", "passage", "document"),
    "negative": ("neg", "negatives", "hard_negative"),
    "image": ("path", "image_path", "img"),
    "mask": ("annotation", "mask_path", "segmentation_mask"),
    "tokens": ("words",),
    "tags": ("ner_tags", "pos_tags"),
}

_NUMBERED = re.compile(r"negative_\d+")  # one a column, as in sets of sentence-transformers
SAID = {
    "image": ("pixel_values",),
    "mask": ("label", "labels"),
    "audio": ("path", "file", "wav", "flac", "mp3"),
    "label": ("score",),
    "text": ("caption", "prompt", "transcription", "transcript"),
}  # more of them, of a shape that was said: by themselves they may be anything


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A row layout: the columns it needs and may have, the kind of Example it gives, and how."""

    needs: tuple[str, ...]
    kind: str
    read: Callable[[Row], Example]
    may_have: tuple[str, ...] = ()


def _labelled(*names: str) -> Callable[[Row], Example]:
    def read(row: Row) -> Example:
        return {name: row[name] for name in names if row.get(name) is not None}

    return read


def _pair(row: Row) -> Example:
    try:
        target = {"score": float(row["score"])} if "score" in row else {"label": row["label"]}
    except (TypeError, ValueError) as error:
        raise Misfit(f"`score` is no number: {row['score']!r}") from error
    return {"text": turns.text(row, "sentence1"), "text_pair": turns.text(row, "sentence2"), **target}


def _passage(row: Row) -> Example:
    return _pair(row | {"sentence1": turns.text(row, "query"), "sentence2": turns.text(row, "passage")})


def _related(row: Row) -> Example:
    given = row.get("negative")
    negatives = [] if given in (None, "") else list(given) if isinstance(given, list) else [given]
    negatives += [text for name, text in row.items() if _NUMBERED.fullmatch(name) and text]
    if not all(isinstance(text, str) and text for text in negatives):
        raise Misfit(f"`negative` is no text, nor a list of texts: {given!r:.80}")
    return {"anchor": turns.text(row, "anchor"), "positive": turns.text(row, "positive"), "negatives": negatives}


def _seen(read: Callable[[Row], Example]) -> Callable[[Row], Example]:
    """A conversation with the images that stand beside it in its row (those within its messages are there already)."""

    def with_images(row: Row) -> Example:
        images = next((row[name] for name in ("images", "image") if row.get(name) is not None), None)
        return read(row) | ({} if images is None else {"images": images if isinstance(images, list) else [images]})

    return with_images


def _translation(row: Row) -> Example:
    texts = row["translation"]
    if not isinstance(texts, dict) or len(texts) < 2 or not all(isinstance(text, str) for text in texts.values()):
        raise Misfit(f"`translation` is no mapping of languages to texts: {texts!r:.80}")
    return {"texts": texts}


def _written(source: str, target: str) -> Callable[[Row], Example]:
    return lambda row: {"source": turns.text(row, source), "target": turns.text(row, target)}


def _tagged(row: Row) -> Example:
    tokens, tags = turns.items(row, "tokens"), turns.items(row, "tags")
    if len(tokens) != len(tags):
        raise Misfit(f"{len(tokens)} tokens, but {len(tags)} tags")
    return {"tokens": tokens, "tags": tags}


# In the order in which they are tried: the more a shape needs, the earlier.
SHAPES: dict[RowShape, Shape] = {
    RowShape.preference: Shape(
        needs=("chosen", "rejected"),
        may_have=("prompt", "messages", "conversations", "instruction", "input", "question", "system", "tools"),
        kind="preference",
        read=turns.preference,
    ),
    RowShape.unpaired_preference: Shape(
        needs=("label",),
        may_have=("messages", "conversations", "prompt", "completion", "system", "tools"),
        kind="unpaired",
        read=turns.unpaired,
    ),
    RowShape.translation: Shape(needs=("translation",), kind="written", read=_translation),
    RowShape.source_target: Shape(needs=("source", "target"), kind="written", read=_written("source", "target")),
    RowShape.summary: Shape(needs=("text", "summary"), kind="written", read=_written("text", "summary")),
    RowShape.messages: Shape(
        needs=("messages",), may_have=("tools",), kind="conversation", read=_seen(partial(turns.conversation, column="messages"))
    ),
    RowShape.sharegpt: Shape(
        needs=("conversations",),
        may_have=("system", "tools"),
        kind="conversation",
        read=_seen(partial(turns.conversation, column="conversations")),
    ),
    RowShape.alpaca: Shape(
        needs=("instruction", "output"), may_have=("input", "system", "history"), kind="conversation", read=turns.alpaca
    ),
    RowShape.prompt_completion: Shape(
        needs=("prompt", "completion"),
        may_have=("system", "tools"),
        kind="conversation",
        read=_seen(partial(turns.asked, ask="prompt", answer="completion")),
    ),
    RowShape.answers: Shape(
        needs=("question", "context"), may_have=("answers", "answer", "answer_start"), kind="answered", read=answers.read
    ),
    RowShape.passage: Shape(needs=("query", "passage"), may_have=("label", "score"), kind="labelled", read=_passage),
    RowShape.question_answer: Shape(
        needs=("question", "answer"),
        may_have=("system",),
        kind="conversation",
        read=_seen(partial(turns.asked, ask="question", answer="answer")),
    ),
    RowShape.prompt: Shape(needs=("prompt",), may_have=("system", "tools"), kind="conversation", read=turns.prompt),
    RowShape.tags: Shape(needs=("tokens", "tags"), kind="tagged", read=_tagged),
    RowShape.pair: Shape(needs=("sentence1", "sentence2"), may_have=("score", "label"), kind="labelled", read=_pair),
    RowShape.triplet: Shape(needs=("anchor", "positive"), may_have=("negative",), kind="related", read=_related),
    RowShape.mask: Shape(
        needs=("image", "mask"),
        may_have=("label", "text", "question", "answer"),
        kind="labelled",
        read=_labelled("image", "mask", "label", "text"),
    ),
    RowShape.objects: Shape(needs=("image", "objects"), kind="boxed", read=found.read),
    RowShape.image: Shape(
        needs=("image",), may_have=("label", "text", "question", "answer"), kind="labelled", read=_labelled("image", "label", "text")
    ),
    RowShape.audio: Shape(needs=("audio",), may_have=("label", "text"), kind="labelled", read=_labelled("audio", "label", "text")),
    RowShape.label: Shape(needs=("text", "label"), kind="labelled", read=_labelled("text", "label")),
    RowShape.text: Shape(needs=("text",), kind="text", read=lambda row: {"text": turns.text(row, "text")}),
}
