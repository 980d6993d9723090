"""Transforms that change texts, in every text of a row or in `fields`: `data: {transforms: [strip_html, {truncate_chars: 2000}]}`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.base import Transform


class Form(StrEnum):
    """Unicode's normal forms."""

    NFC = "NFC"
    NFD = "NFD"
    NFKC = "NFKC"
    NFKD = "NFKD"


@dataclass(kw_only=True)
class Text(Transform):
    """A change of texts."""

    impl = "tuner.data.transforms.text"
    fields: list[str] = opt(factory=list)
    """Columns whose texts are meant; none: every text of the row, in messages too (roles, ids and file names are left alone)."""


@kind("transform", "strip_html")
@dataclass(kw_only=True)
class StripHtml(Text):
    """Takes HTML tags, comments, scripts and styles out; blocks and `<br>` become line breaks, entities characters."""

    example = "strip_html"


@kind("transform", "unescape_html")
@dataclass(kw_only=True)
class UnescapeHtml(Text):
    """Writes entities as characters: `&amp;` is `&`."""

    example = "unescape_html"


@kind("transform", "strip_markdown")
@dataclass(kw_only=True)
class StripMarkdown(Text):
    """Takes Markdown's marks out and keeps the words: headings, emphasis, links, code fences, quotes, bullets."""

    example = "strip_markdown"


@kind("transform", "strip_urls")
@dataclass(kw_only=True)
class StripUrls(Text):
    """Takes web addresses out, or puts `by` in their place."""

    main = "by"
    example = 'strip_urls: "<url>"'
    by: str = opt("")
    """What stands there instead."""


@kind("transform", "strip_emoji")
@dataclass(kw_only=True)
class StripEmoji(Text):
    """Takes emoji out, those of several characters as a whole."""

    example = "strip_emoji"


@kind("transform", "strip_control")
@dataclass(kw_only=True)
class StripControl(Text):
    """Takes control characters, invisible ones and byte-order marks out; tabs, line breaks and the joiners that scripts need stay."""

    example = "strip_control"


@kind("transform", "strip_accents")
@dataclass(kw_only=True)
class StripAccents(Text):
    """Letters without accents in Latin, Greek and Cyrillic: `é` is `e`."""

    example = "strip_accents: {fields: [query]}"


@kind("transform", "fix_encoding")
@dataclass(kw_only=True)
class FixEncoding(Text):
    """Mends text that was decoded wrongly (`Ã¼` is `ü`), with ftfy."""

    needs = ("ftfy",)
    example = "fix_encoding"


@kind("transform", "normalise_unicode")
@dataclass(kw_only=True)
class NormaliseUnicode(Text):
    """One form of Unicode: `NFC` composes letters; `NFKC` also unifies ligatures, full-width and superscript characters."""

    main = "form"
    example = "normalise_unicode: NFKC"
    form: Form = opt(Form.NFC)
    """The normal form."""


@kind("transform", "normalise_whitespace")
@dataclass(kw_only=True)
class NormaliseWhitespace(Text):
    """One space where there are several, of whatever kind; at most one empty line; none at the ends."""

    example = "normalise_whitespace"


@kind("transform", "normalise_newlines")
@dataclass(kw_only=True)
class NormaliseNewlines(Text):
    """Every line break is `\\n`, those of Windows, the old Mac and Unicode too."""

    example = "normalise_newlines"


@kind("transform", "normalise_quotes")
@dataclass(kw_only=True)
class NormaliseQuotes(Text):
    """Quotation marks and apostrophes are straight: `„a“` is `"a"`."""

    example = "normalise_quotes"


@kind("transform", "normalise_dashes")
@dataclass(kw_only=True)
class NormaliseDashes(Text):
    """Every dash is `-`, and `…` is `...`."""

    example = "normalise_dashes"


@kind("transform", "lowercase")
@dataclass(kw_only=True)
class Lowercase(Text):
    """Small letters."""

    example = "lowercase: {fields: [query]}"


@kind("transform", "trim")
@dataclass(kw_only=True)
class Trim(Text):
    """No space and no line break at the ends."""

    example = "trim"


@kind("transform", "collapse_repeats")
@dataclass(kw_only=True)
class CollapseRepeats(Text):
    """A letter or mark (no digit) that stands more than `most` times in a row stands so often: `sooooo!!!!!!` is `sooo!!!`."""

    main = "most"
    example = "collapse_repeats: 3"
    most: int = opt(3, ge=1, le=100)
    """How often it may stand."""


@kind("transform", "truncate_chars")
@dataclass(kw_only=True)
class TruncateChars(Text):
    """Cuts each text to its first `most` characters, not inside a letter with its accents. Held-out rows are left whole."""

    main = "most"
    held_out = False
    example = "truncate_chars: {most: 4000, fields: [document]}"
    most: int = opt(ge=1)
    """Characters that stay."""


@kind("transform", "truncate_words")
@dataclass(kw_only=True)
class TruncateWords(Text):
    """Cuts each text to its first `most` words; Chinese, Japanese and Thai are counted rightly. Held-out rows are left whole."""

    main = "most"
    held_out = False
    example = "truncate_words: 300"
    most: int = opt(ge=1)
    """Words that stay."""
