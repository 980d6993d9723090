"""Steps that change texts: `STEPS["strip_html"]` leaves `a & b` of `<p>a &amp; b</p>`. What they do: schema/transforms/text.py."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import regex

from tuner.data.expressions import PATTERN_S
from tuner.data.transforms.steps import Step, library, texts
from tuner.data.words import first_words

_BLOCKS = (
    "address article aside blockquote br dd div dl dt figure footer form h1 h2 h3 h4 h5 h6 header hr li main nav ol p pre"
    " section table tr ul"
)
BLOCKS = frozenset(_BLOCKS.split())
UNSEEN = frozenset({"script", "style", "template", "noscript"})
_TAG = regex.compile(r"<[a-zA-Z/!?]")
_ENTITY = regex.compile(r"&[#\w]+;")
_SPACES, _LINES = regex.compile(r"[^\S\n]+"), regex.compile(r" *\n[ \n]*\n *")
_ODD_SPACE = regex.compile(r"[^\S \n]|  | \n|\n ")
_BREAKS = regex.compile(r"\r\n|[\r\x85\u2028\u2029]")
_URL = regex.compile(r"(?:\b(?:https?|ftp)://|\bwww\.)[^\s<>\"'`\]]*[^\s<>\"'`\].,;:!?)]", regex.IGNORECASE)
_EMOJI_UNIT = r"(?:\p{RI}\p{RI}|[0-9#*]\ufe0f?\u20e3|\p{Emoji}(?:\p{EMod}|\ufe0f)|\p{Emoji_Presentation})"
# Zero-width joiners stay: Persian, Hindi and emoji are spelled with them.
_CONTROL = regex.compile(
    r"(?![\t\n\r\u200c\u200d])[\p{Cc}\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff\ufff9-\ufffb]"
)
_QUOTES = str.maketrans(dict.fromkeys("‘’‚‛′ʼ´`‹›", "'") | dict.fromkeys("“”„‟″«»〝〞＂", '"'))
_DASHES = str.maketrans(dict.fromkeys("‐‑‒–—―−﹘﹣－", "-") | {"…": "..."})
_ACCENTED = regex.compile(r"[\p{Latin}\p{Greek}\p{Cyrillic}]\p{Mn}+")


class _Stripper(HTMLParser):
    """Collects what a reader sees."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.unseen = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Blocks break lines."""
        self.unseen += tag in UNSEEN
        if tag in BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append(" ")

    def handle_endtag(self, tag: str) -> None:
        """Their ends too."""
        self.unseen -= tag in UNSEEN and self.unseen > 0
        if tag in BLOCKS:
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        """Text that is shown."""
        if not self.unseen:
            self.parts.append(data)


def _strip_html(text: str) -> str:
    if not _TAG.search(text):
        return html.unescape(text) if _ENTITY.search(text) else text
    parser = _Stripper()
    parser.feed(text)
    parser.close()
    lines = (_SPACES.sub(" ", line).strip() for line in "".join(parser.parts).split("\n"))
    return regex.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


_MARKDOWN: tuple[tuple[Any, str], ...] = (
    (regex.compile(r"^ {0,3}(?:```|~~~)[^\n]*\n?", regex.MULTILINE), ""),
    (regex.compile(r"!\[([^\]\n]*)\]\([^)\s]*(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
    (regex.compile(r"\[([^\]\n]+)\]\([^)\s]*(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
    (regex.compile(r"^ {0,3}#{1,6}[ \t]+(.*?)[ \t#]*$", regex.MULTILINE), r"\1"),
    (regex.compile(r"^ {0,3}(?:[-*_][ \t]*){3,}$\n?", regex.MULTILINE), ""),
    (regex.compile(r"^ {0,3}>[ \t]?", regex.MULTILINE), ""),
    (regex.compile(r"^([ \t]*)[-*+][ \t]+", regex.MULTILINE), r"\1"),
    (regex.compile(r"(\*\*|__)(?=\S)([^\n]+?)(?<=\S)\1"), r"\2"),
    (regex.compile(r"(?<![\w*])\*(?=\S)([^*\n]+)(?<=\S)\*(?![\w*])"), r"\1"),
    (regex.compile(r"(?<!\w)_(?=\S)([^_\n]+)(?<=\S)_(?!\w)"), r"\1"),
    (regex.compile(r"~~(?=\S)([^~\n]+)~~"), r"\1"),
    (regex.compile(r"(`+)([^`\n]+)\1"), r"\2"),
)


def _strip_markdown(text: str) -> str:
    for pattern, by in _MARKDOWN:
        text = pattern.sub(by, text)
    return text


def _strip_emoji(text: str) -> str:
    """An emoji with the space behind it, where one stands before it too."""
    return text if text.isascii() else regex.sub(r"(?<=\s|^)\x00+ ?| ?\x00+", "", _MARK.sub("\x00", text.replace("\x00", "")))


_MARK = regex.compile(rf"{_EMOJI_UNIT}(?:\p{{EMod}}|\ufe0f|[\U000e0020-\U000e007f])*(?:\u200d\p{{Emoji}}(?:\p{{EMod}}|\ufe0f)*)*")


def _strip_accents(text: str) -> str:
    if text.isascii():
        return text
    bare = _ACCENTED.sub(lambda m: m[0][0], unicodedata.normalize("NFD", text))
    return unicodedata.normalize("NFC", bare)


def _whitespace(text: str) -> str:
    if _ODD_SPACE.search(text):
        text = _SPACES.sub(" ", text).replace(" \n", "\n").replace("\n ", "\n")
    return (_LINES.sub("\n\n", text) if "\n\n" in text else text).strip()


def _truncated(most: int) -> Callable[[str], str]:
    def cut(text: str) -> str:
        if len(text) <= most:
            return text
        end = most
        while end and (unicodedata.combining(text[end]) or text[end] in "\u200d\ufe0f"):
            end -= 1  # the letter goes with its accents
        return text[: end or most]

    return cut


def _without_lines(pattern: str) -> Callable[[str], str]:
    found = regex.compile(pattern)
    return lambda text: "\n".join(line for line in text.split("\n") if not found.search(line, timeout=PATTERN_S))


def _replaced(pattern: str, by: str) -> Callable[[str], str]:
    found = regex.compile(pattern)
    return lambda text: found.sub(by, text, timeout=PATTERN_S)


def _repeats(most: int) -> Callable[[str], str]:
    found = regex.compile(rf"([^\d\s])\1{{{most},}}")
    return lambda text: found.sub(lambda m: m[1] * most, text)


STEPS: dict[str, Step] = {
    "strip_html": texts(lambda step: _strip_html),
    "unescape_html": texts(lambda step: html.unescape),
    "strip_markdown": texts(lambda step: _strip_markdown),
    "strip_urls": texts(lambda step: lambda text: _URL.sub(lambda m: step.by, text)),
    "strip_emoji": texts(lambda step: _strip_emoji),
    "strip_control": texts(lambda step: lambda text: _CONTROL.sub("", text)),
    "strip_accents": texts(lambda step: _strip_accents),
    "fix_encoding": texts(lambda step: library("ftfy", "fix_encoding").fix_encoding),
    "normalise_unicode": texts(lambda step: lambda text: unicodedata.normalize(step.form.value, text)),
    "normalise_whitespace": texts(lambda step: _whitespace),
    "normalise_newlines": texts(lambda step: lambda text: _BREAKS.sub("\n", text)),
    "normalise_quotes": texts(lambda step: lambda text: text.translate(_QUOTES)),
    "normalise_dashes": texts(lambda step: lambda text: text.translate(_DASHES)),
    "lowercase": texts(lambda step: str.lower),
    "trim": texts(lambda step: str.strip),
    "collapse_repeats": texts(lambda step: _repeats(step.most)),
    "truncate_chars": texts(lambda step: _truncated(step.most)),
    "truncate_words": texts(lambda step: lambda text: first_words(text, step.most)),
    "replace": texts(lambda step: _replaced(step.pattern, step.by)),
    "remove_lines": texts(lambda step: _without_lines(step.matching)),
}
