"""What a person types, text by text: `for text in typed(): …`."""

from __future__ import annotations

from collections.abc import Iterator

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
