"""What rows a task wants, in words: `LIKE["tagged"]` -> "words with tags (…)"; `COLUMNS["tagged"]` says which columns to name."""

from __future__ import annotations

LIKE = {
    "unpaired": "answers that were liked or not ({prompt: …, completion: …, label: true})",
    "preference": "two answers to a prompt ({prompt: …, chosen: …, rejected: …})",
    "related": "texts that belong together ({anchor: …, positive: …, negative: …})",
    "written": "texts and what is written of them ({source: …, target: …}, {translation: {en: …, de: …}}, {document: …, summary: …})",
    "conversation": "a question and its answer ({prompt: …, completion: …})",
    "labelled": "texts with labels ({text: …, label: …})",
    "labelled image": "images with labels ({image: photo.jpg, label: …}, or a folder a class)",
    "boxed": "images with objects ({image: photo.jpg, objects: {bbox: [[x, y, width, height], …], category: [cat, …]}}, or a COCO file)",
    "labelled image text": "images with captions ({image: photo.jpg, text: …}, or a folder of images with .txt files or metadata.jsonl)",
    "text": "texts ({text: …}, or the lines of a text file; `data.shape=text` passes over other columns)",
    "answered": "questions with a text and the answer in it ({question: …, context: …, answers: {text: […], answer_start: […]}})",
    "tagged": "words with tags ({tokens: […], tags: […]})",
}


NAME = "name the columns: `data.columns={{{}}}`, or choose another task"
_NEEDED = {
    "written": "source: …, target: …",
    "boxed": "image: …, objects: …",
    "answered": "question: …, context: …, answer: …",
    "unpaired": "prompt: …, completion: …, label: …",
    "preference": "prompt: …, chosen: …, rejected: …",
    "related": "anchor: …, positive: …",
    "conversation": "prompt: …, completion: …",
    "tagged": "tokens: …, tags: …",
    "text": "text: …",
}
COLUMNS = {kind: NAME.format(_NEEDED.get(kind, "text: …, label: …")) for kind in LIKE}
