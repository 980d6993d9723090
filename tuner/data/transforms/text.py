"""Steps that change texts: `STEPS["strip_html"]` leaves `a & b` of `<p>a &amp; b</p>`. What they do: schema/transforms/text.py."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable
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
_MARKUP = regex.compile(
    r"(?P<comment><!--)|<(?P<closes>/?)(?P<name>[a-zA-Z][\w:-]*+)(?=[\s/>])(?:[^<>\"']++|\"[^\"]*+\"|'[^']*+'|[\"'])*?>|<[!?][^<>]*+>"
)
_EMPTY_LINES = regex.compile(r"\n{3,}")
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


def _strip_html(text: str) -> str:
    """By a scanner that reads every character once: the standard library's parser is quadratic on unclosed tags, and stops at `<![a`."""
    if not _TAG.search(text):
        return html.unescape(text) if _ENTITY.search(text) else text
    parts, at = [], 0
    unclosed: set[str] = set()  # what no longer ends in the rest of the text is not looked for again
    for match in _MARKUP.finditer(text):
        if match.start() < at:
            continue  # inside a script or a comment
        parts.append(text[at : match.start()])
        name, at = (match["name"] or "").lower(), match.end()
        if name in BLOCKS:
            parts.append("\n")
        elif name in ("td", "th"):
            parts.append(" ")
        end = "-->" if match["comment"] else f"</{name}" if name in UNSEEN and not match["closes"] else ""
        if end and end not in unclosed:
            found = regex.compile(regex.escape(end), regex.IGNORECASE).search(text, at)
            at = found.end() - (0 if match["comment"] else len(end)) if found else at
            unclosed |= set() if found else {end}
    parts.append(text[at:])
    lines = (_SPACES.sub(" ", line).strip() for line in html.unescape("".join(parts)).split("\n"))
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()


_MARKDOWN: tuple[tuple[Any, str], ...] = (
    (regex.compile(r"^ {0,3}(?:```|~~~)[^\n]*\n?", regex.MULTILINE), ""),
    (regex.compile(r"!\[([^\[\]\n]*+)\]\((?:[^()\s]++|\([^()\s]*+\))*+(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
    (regex.compile(r"\[([^\[\]\n]++)\]\((?:[^()\s]++|\([^()\s]*+\))*+(?:\s+\"[^\"\n]*\")?\)"), r"\1"),
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
