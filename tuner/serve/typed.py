"""What a person types, text by text: `for text in typed(): …`; and what is set beside: `given("@story.txt", "context", …)`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from tuner.errors import TuneError
from tuner.render import out


def typed(what: str = "a text") -> Iterator[str]:
    """Texts until an empty line, Ctrl-D or Ctrl-C."""
    out.print(f"type {what}; an empty line ends")
    while True:
        try:
            text = out.input("[bold]>[/] ").strip()
        except (EOFError, KeyboardInterrupt):
            return
        if not text:
            return
        yield text


def given(value: str | None, key: str, what: str) -> str:
    """The text that `key=TEXT` gives, or the file of `key=@FILE`; else what is on stdin. Raises TuneError (code 2) where there is none."""
    if value is not None and value.startswith("@"):
        try:
            value = Path(value[1:]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TuneError(f"cannot read the file: {error}", f"{key}={value}", f"`{key}=@FILE` names a text file") from error
    elif value is None and not sys.stdin.isatty():
        value = sys.stdin.read()
    if not value or not value.strip():
        raise TuneError(f"`{key}` is missing: {what}", key, f"`{key}=TEXT`, `{key}=@FILE`, or the text on stdin")
    return value
