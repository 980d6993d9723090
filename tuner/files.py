"""Inputs: finding a recipe's data files (`tickets/train.jsonl.gz`, `photos/`, `s3://bucket/a.csv`) and hashing content, cached by age."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tuner.errors import TuneError, nearest
from tuner.runs import write_json

_BY_FORMAT = {
    "json": ".json",
    "jsonl": ".jsonl .ndjson",
    "csv": ".csv",
    "tsv": ".tsv",
    "parquet": ".parquet",
    "arrow": ".arrow .feather",
    "xml": ".xml",
    "conll": ".conll .iob .bio",
    "webdataset": ".tar .tgz",
    "text": ".txt .text .md",
    "images": ".png .jpg .jpeg .webp .gif .bmp .tif .tiff",
    "audio": ".wav .flac .mp3 .ogg .opus .m4a .aac .aiff",
}
ENDINGS = {ending: form for form, endings in _BY_FORMAT.items() for ending in endings.split()}
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
MEDIA = ("images", "audio")
_ABOUT = ("readme", "license", "licence", "notice", "changelog")  # what lies in a folder of texts and is none of them
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")  # columns of the media files beside them
_REMOTE = re.compile(r"(?!file:)[a-z][a-z0-9+.-]*://", re.IGNORECASE)
SHIPPED_DATA = Path(__file__).resolve().parent / "conf" / "data"


def cache_dir() -> Path:
    """The user's cache for models and hashes: $TUNER_CACHE, else $XDG_CACHE_HOME/tuner, else ~/.cache/tuner."""
    if own := os.environ.get("TUNER_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tuner"


def format_of(name: str) -> str | None:
    """The format that a file's ending stands for: `train.jsonl.gz` -> "jsonl"; None where it says nothing."""
    stem, ending = os.path.splitext(base_name(name).lower())
    if ending in COMPRESSED:
        ending = os.path.splitext(stem)[1]
    return ENDINGS.get(ending)


def base_name(path: str) -> str:
    """The last part of a path or URL, without a web address's query: `https://host/a.csv?download=1` -> `a.csv`."""
    if path.lower().startswith(("http://", "https://")):
        path = re.split(r"[?#]", path, maxsplit=1)[0]
    return path.rpartition("/")[2] or os.path.basename(path)


def has_password(url: str) -> bool:
    """Whether a URL holds one, before its host or in its query."""
    try:
        parts = urlsplit(url)
        return bool(parts.password) or any(is_secret(key) for key, _ in parse_qsl(parts.query))
    except ValueError:  # not a URL: told by who opens it
        return False


def is_secret(key: str) -> bool:
    """Whether a parameter of this name is one to keep: `password`, `PWD`, `sslpassword`, `auth_token`."""
    return bool(re.search(r"password|passwd|pwd|secret|token", key, re.IGNORECASE))


def is_remote(path: str) -> bool:
    """Whether a data path is a URL: `s3://bucket/rows.csv`, `https://host/rows.jsonl`."""
    return bool(_REMOTE.match(path))


def find_files(path: str, *, places: Sequence[Path], form: str = "auto") -> list[str]:
    """Files that a data path stands for: a file, a glob or a folder, looked up from each of `places`, then in the shipped sets.

    A URL is kept as it is. Of a folder, `form` says which files are meant, where it holds several kinds.
    Raises TuneError (code 2) with the places that were tried and the nearest file name.
    """
    if is_remote(path):
        return [path]
    wanted = Path(path.removeprefix("file://")).expanduser()
    tried = [wanted] if wanted.is_absolute() else [place / wanted for place in (*places, SHIPPED_DATA)]
    for candidate in tried:
        if candidate.is_file():
            return [os.path.abspath(candidate)]  # a link keeps its name: in a Hub cache only that has the ending
        if candidate.is_dir():
            if inside := _inside(Path(os.path.abspath(candidate)), form):
                return inside
            raise TuneError(f"no data files in the folder {candidate}", "", f"expected one of {', '.join(ENDINGS)}")
        if matches := [m for m in sorted(glob.glob(str(candidate), recursive=True)) if os.path.isfile(m)]:
            return [os.path.abspath(m) for m in matches]
    parent = tried[0].parent
    guess = nearest(wanted.name, [p.name for p in parent.iterdir()]) if parent.is_dir() else None
    looked = ", ".join(dict.fromkeys(str(p) for p in tried))
    raise TuneError(f"no such file: {path}", "", (f"did you mean `{wanted.with_name(guess)}`? " if guess else "") + f"tried {looked}")


def _inside(folder: Path, form: str) -> list[str]:
    """A folder's data files: its tables; where it has none, the images and audio in it and below it, with their metadata; else its texts.

    A folder of tables may hold notes, and one of images a list of where they are from: these are not rows.
    """
    here = sorted(str(p) for p in folder.iterdir() if p.is_file() and not p.name.startswith(".") and format_of(p.name))
    texts = [p for p in here if format_of(p) == "text" and os.path.basename(p).lower().split(".")[0] not in _ABOUT]
    tables = [p for p in here if format_of(p) not in ("text", *MEDIA) and os.path.basename(p) not in METADATA]
    if form == "text":
        return texts
    if form in MEDIA:
        return _media(str(folder), (form,))
    if form != "auto":  # said in the recipe, where the ending may be any
        return [p for p in tables if format_of(p) == form] or tables or texts
    return tables or _media(str(folder), MEDIA) or texts or [p for p in here if os.path.basename(p) in METADATA]


def _media(folder: str, kinds: Sequence[str]) -> list[str]:
    """Media files in a folder and below it, through links too, and the metadata beside them; empty where there are no media."""
    found = []
    above = {folder: {os.path.realpath(folder)}}
    for where, folders, names in os.walk(folder, followlinks=True):
        inside = {name: os.path.realpath(os.path.join(where, name)) for name in sorted(folders) if not name.startswith(".")}
        folders[:] = [name for name, real in inside.items() if real not in above[where]]  # a link upwards would go round in circles
        above |= {os.path.join(where, name): above[where] | {inside[name]} for name in folders}
        stems = {os.path.splitext(n)[0] for n in names if format_of(n) in kinds}
        shown = [n for n in sorted(names) if not n.startswith(".")]
        found += [os.path.join(where, n) for n in shown if n in METADATA or format_of(n) in kinds or caption_of(n) in stems]
    return found if any(format_of(p) in kinds for p in found) else []


def caption_of(name: str) -> str | None:
    """The media file, without its ending, whose text a file may hold: `photos/1.txt` -> `photos/1`; None for what is no text file."""
    stem, ending = os.path.splitext(name)
    return stem if ending.lower() == ".txt" else None


def hashes(files: Sequence[str]) -> list[str]:
    """sha256 of each file's content, with `folder/name` where these may be the label; a URL itself.

    A file whose size and time of change are known is not read again.
    """
    store = cache_dir() / "hashes.json"
    try:
        known: dict[str, Any] = json.loads(store.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        known = {}
    result, fresh = [], False
    for name in files:
        if is_remote(name):
            result.append(name)
            continue
        stat = os.stat(name)
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = known.get(name)
        if entry is None or entry["stamp"] != stamp:
            with open(name, "rb") as stream:
                entry = {"stamp": stamp, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}
            known[name], fresh = entry, True
        result.append(" ".join([entry["sha256"], *(["/".join(name.split(os.sep)[-2:])] if format_of(name) in MEDIA else [])]))
    if fresh:
        with contextlib.suppress(TuneError):  # a cache that cannot be written only costs time
            write_json(store, known)
    return result


def model_files(folder: Path) -> list[Path]:
    """The files that make a local model what it is: configuration, weights, tokenizer, template."""
    endings = {".json", ".safetensors", ".model", ".jinja", ".bin", ".txt"}
    parts = [p for p in folder.iterdir() if p.is_dir()] if (folder / "model_index.json").is_file() else []  # of a pipeline
    return sorted(p for place in (folder, *parts) for p in place.iterdir() if p.is_file() and p.suffix in endings)
