"""Counts and cuts words in any script: `count_words("这是 a test")` -> 4. Where no spaces stand between words, they are told by script.

A Chinese character, or a Japanese one, counts as a word, as word processors count. Thai, Lao, Khmer and Burmese words are about four
characters long (with vowel signs), so every four of them count as one. Korean has spaces.
"""

from __future__ import annotations

import regex

HAN = r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc"
SOUTH_EAST = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
LETTERS_A_WORD = 4  # of unspaced scripts of South-East Asia
# A word: a Han or kana character; a run of up to four of South-East Asia; or letters, digits, marks, with ' . - inside.
_WORD = regex.compile(
    rf"[{HAN}]|[{SOUTH_EAST}]{{1,{LETTERS_A_WORD}}}|(?:(?![{HAN}{SOUTH_EAST}])[\w\p{{M}}])+(?:['’.-](?:(?![{HAN}{SOUTH_EAST}])\w)+)*"
)
# A token of an n-gram: the same, but every character of an unspaced script by itself, and no ' . - inside.
_TOKEN = regex.compile(rf"[{HAN}{SOUTH_EAST}]|(?:(?![{HAN}{SOUTH_EAST}])[\w\p{{M}}])+")
_ASCII_TOKEN = regex.compile(r"[A-Za-z0-9_]+")
UNSPACED = regex.compile(rf"[{HAN}{SOUTH_EAST}]")


def words_of(text: str) -> list[str]:
    """The words of a text."""
    return _WORD.findall(text)


def count_words(text: str) -> int:
    """How many words a text has."""
    return len(_WORD.findall(text))


def first_words(text: str, most: int) -> str:
    """The text up to its word number `most`; the same text where it has no more."""
    for number, match in enumerate(_WORD.finditer(text), 1):
        if number == most:
            end = match.end()
        elif number > most:
            return text[:end]
    return text


def tokens_of(text: str) -> list[str]:
    """Words in small letters without marks, characters in unspaced scripts: what n-grams are made of."""
    return (_ASCII_TOKEN if text.isascii() else _TOKEN).findall(text.lower())
