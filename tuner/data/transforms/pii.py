"""Steps that take personal data and secrets out: `STEPS["scrub_email"]` makes `[email]` of `a@b.org`. Said in schema/transforms/pii.py."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import regex

from tuner.data.transforms.steps import Step, texts
from tuner.registry import kinds
from tuner.schema.transforms.pii import DETECTORS

Scrubber = Callable[[str, str], str]

_EMAIL = regex.compile(r"(?<![\w.+%-])[\w.+%-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}(?![\w-])")
# International, or national: beginning with 0, or grouped as 555-123-4567; dates and decimal numbers are not told as such (see _phone).
_PHONE = regex.compile(
    r"(?<![\w.,/#-])(?:(?:\+|00)[1-9]\d{0,2}[ .\-/]?(?:\(\d{1,4}\)[ .\-/]?)?\d(?:[ .\-/]?\d){5,12}"
    r"|\(\d{2,5}\)[ .\-/]?\d(?:[ .\-/]?\d){4,9}"
    r"|0\d{1,4}[ \-/]\d(?:[ \-/]?\d){4,9}|0\d{9,11}|[2-9]\d{2}[ .\-]\d{3}[ .\-]\d{4})(?![\w-]|[.,]\d)"
)
_IPV4 = regex.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
_IPV6 = regex.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
_IBAN = regex.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b")
_CARD = regex.compile(r"(?<![\w.-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{3})?|\d{4}([ -])\d{6}\2\d{5})(?![\w-]|\.\d)")
_USERINFO = regex.compile(r"(?<=\b[a-z][a-z0-9+.-]{1,20}://)[^\s/@:]{1,200}(?::[^\s/@]{0,200})?(?=@)", regex.IGNORECASE)
_QUERY = regex.compile(
    r"(?<=[?&](?:access_token|api_?key|auth|key|passwd|password|secret|sig|signature|token|x-amz-signature)=)[^\s&#\"'<>]+",
    regex.IGNORECASE,
)
_SECRET = regex.compile(
    "|".join(
        (
            r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----[\s\S]{0,10000}?-----END (?:[A-Z]+ )*PRIVATE KEY-----",
            r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}",  # JWT
            r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",  # AWS
            r"\bgh[pousr]_[A-Za-z0-9]{36,255}\b|\bgithub_pat_\w{22,255}\b",
            r"\bglpat-[\w-]{20,}\b",
            r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}\b",  # Slack
            r"\bhooks\.slack\.com/services/[\w/]{20,}",
            r"\bsk-(?:proj-|ant-|or-)?[\w-]{20,}\b",  # OpenAI, Anthropic, OpenRouter
            r"\bhf_[A-Za-z0-9]{30,}\b",
            r"\bAIza[\w-]{35}\b",  # Google
            r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{16,}\b",  # Stripe
            r"\bSG\.[\w-]{16,}\.[\w-]{16,}\b",  # SendGrid
            r"\bnpm_[A-Za-z0-9]{36}\b|\bpypi-[\w-]{50,}\b",
            r"\b(?i:bearer)\s+[\w.~+/-]{20,}=*",
            r"(?<=\b(?i:api[_-]?key|secret[_-]?key|access[_-]?token|auth[_-]?token|password|passwd|pwd)\b[\"']?\s{0,3}[:=]\s{0,3}[\"']?)"
            r"[^\s\"',;]{8,200}",
        )
    )
)
# In small letters: a text without any of them holds no secret, and most texts are done with after this look.
_HINTS = (
    *("private key-----", "eyj", "akia", "asia", "abia", "acca", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "xox"),
    *("hooks.slack.com", "sk-", "hf_", "aiza", "k_live_", "k_test_", "sg.", "npm_", "pypi-", "bearer", "key", "token", "passw", "pwd"),
)
_DIGITS = regex.compile(r"\D")


def _secrets(text: str, by: str) -> str:
    small = text.lower()
    return _SECRET.sub(lambda m: by, text) if any(hint in small for hint in _HINTS) else text


def _credentials(text: str, by: str) -> str:
    text = _USERINFO.sub(lambda m: by, text) if "://" in text else text
    return _QUERY.sub(lambda m: by, text) if "=" in text else text


def _phone(text: str, by: str) -> str:
    def judged(match: regex.Match[str]) -> str:
        digits = _DIGITS.sub("", match[0])
        return by if 7 <= len(digits) <= 15 else match[0]

    return _PHONE.sub(judged, text)


def _ip(text: str, by: str) -> str:
    def judged(match: regex.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return str(match[0])
        return str(match[0]) if address.is_loopback or address.is_unspecified else by

    return _IPV6.sub(judged, _IPV4.sub(judged, text))


def iban_is_right(text: str) -> bool:
    """Whether the check digits of an IBAN are right (ISO 7064, mod 97)."""
    moved = text[4:] + text[:4]
    return 15 <= len(text) <= 34 and int("".join(str(int(c, 36)) for c in moved)) % 97 == 1


def _iban(text: str, by: str) -> str:
    def judged(match: regex.Match[str]) -> str:
        """The longest start of the match that is right: a word in capitals may follow."""
        whole = match[0]
        for end in range(len(whole), 14, -1):
            if (end == len(whole) or not whole[end].isalnum()) and iban_is_right(whole[:end].replace(" ", "")):
                return by + str(whole[end:])
        return str(whole)

    return _IBAN.sub(judged, text)


def luhn_is_right(digits: str) -> bool:
    """Whether the check digit of a card number is right (ISO/IEC 7812)."""
    doubled = (int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits)))
    return sum(n - 9 if n > 9 else n for n in doubled) % 10 == 0


def _card(text: str, by: str) -> str:
    def judged(match: regex.Match[str]) -> str:
        digits = _DIGITS.sub("", match[0])
        return by if digits[0] in "123456" and len(set(digits)) > 1 and luhn_is_right(digits) else str(match[0])

    return _CARD.sub(judged, text)


SCRUBBERS: dict[str, Scrubber] = {
    "secrets": _secrets,
    "url_credentials": _credentials,
    "email": lambda text, by: _EMAIL.sub(lambda m: by, text) if "@" in text else text,
    "iban": _iban,
    "card": _card,
    "ip": _ip,
    "phone": _phone,
}
assert set(SCRUBBERS) == set(DETECTORS)


def _all(step: Any) -> Callable[[str], str]:
    """In the order of SCRUBBERS: what is checked goes before what only looks like it (a card before a telephone number)."""
    marks = {name: kinds("transform")[f"scrub_{name}"]().by for name in SCRUBBERS}

    def scrub(text: str) -> str:
        for name, scrubber in SCRUBBERS.items():
            if name not in step.keep:
                text = scrubber(text, marks[name])
        return text

    return scrub


def _one(scrubber: Scrubber) -> Step:
    return texts(lambda step: lambda text: scrubber(text, step.by))


STEPS: dict[str, Step] = {f"scrub_{name}": _one(scrubber) for name, scrubber in SCRUBBERS.items()} | {"scrub_pii": texts(_all)}
