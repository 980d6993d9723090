"""Transforms that take personal data and secrets out of texts, by pattern: `data: {transforms: [{scrub_pii: {keep: [ip]}}]}`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tuner.errors import nearest
from tuner.registry import kind
from tuner.schema.base import opt
from tuner.schema.transforms.base import Transform

DETECTORS = ("email", "phone", "ip", "iban", "card", "url_credentials", "secrets")


@dataclass(kw_only=True)
class Scrub(Transform):
    """Personal data taken out."""

    impl = "tuner.data.transforms.pii"
    fields: list[str] = opt(factory=list)
    """Columns whose texts are meant; none: every text of the row, in messages too."""


@dataclass(kw_only=True)
class ScrubOne(Scrub):
    """One sort of it."""

    main = "by"


@kind("transform", "scrub_email")
@dataclass(kw_only=True)
class ScrubEmail(ScrubOne):
    """Puts `[email]` in place of e-mail addresses."""

    example = "scrub_email"
    by: str = opt("[email]")
    """What stands there instead."""


@kind("transform", "scrub_phone")
@dataclass(kw_only=True)
class ScrubPhone(ScrubOne):
    """Puts `[phone]` in place of telephone numbers: international ones (+49 …), and national ones that are grouped or begin with 0."""

    example = "scrub_phone"
    by: str = opt("[phone]")
    """What stands there instead."""


@kind("transform", "scrub_ip")
@dataclass(kw_only=True)
class ScrubIp(ScrubOne):
    """Puts `[ip]` in place of IPv4 and IPv6 addresses, but for those of this machine (127.0.0.1, 0.0.0.0, ::1)."""

    example = "scrub_ip"
    by: str = opt("[ip]")
    """What stands there instead."""


@kind("transform", "scrub_iban")
@dataclass(kw_only=True)
class ScrubIban(ScrubOne):
    """Puts `[iban]` in place of bank accounts (IBAN) whose check digits are right."""

    example = "scrub_iban"
    by: str = opt("[iban]")
    """What stands there instead."""


@kind("transform", "scrub_card")
@dataclass(kw_only=True)
class ScrubCard(ScrubOne):
    """Puts `[card]` in place of payment cards: 13 to 19 digits whose check digit (Luhn) is right."""

    example = "scrub_card"
    by: str = opt("[card]")
    """What stands there instead."""


@kind("transform", "scrub_url_credentials")
@dataclass(kw_only=True)
class ScrubUrlCredentials(ScrubOne):
    """Puts `[credentials]` in place of the user and password in addresses, and of tokens in their queries."""

    example = "scrub_url_credentials"
    by: str = opt("[credentials]")
    """What stands there instead."""


@kind("transform", "scrub_secrets")
@dataclass(kw_only=True)
class ScrubSecrets(ScrubOne):
    """Puts `[secret]` in place of keys and tokens of known shapes: private keys, JWTs, AWS, GitHub, Slack, OpenAI, Google, Stripe …"""

    example = "scrub_secrets"
    by: str = opt("[secret]")
    """What stands there instead."""


@kind("transform", "scrub_pii")
@dataclass(kw_only=True)
class ScrubPii(Scrub):
    """All of the `scrub_…` steps at once, each with its own mark. Patterns find shapes: names and street addresses stay."""

    main = "fields"
    example = "scrub_pii: {keep: [ip]}"
    keep: list[str] = opt(factory=list)
    """What is left alone: email, phone, ip, iban, card, url_credentials, secrets."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """What is to be kept exists."""
        for name in self.keep:
            if name not in DETECTORS:
                guess = nearest(name, DETECTORS)
                yield f"nothing is called `{name}`", f"did you mean `{guess}`?" if guess else f"one of {', '.join(DETECTORS)}"
