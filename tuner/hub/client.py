"""Speaking with the Hub: `with hub_errors("create me/tickets"): api.create_repo(…)` turns its failures into one message and code 4."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import httpx2  # huggingface_hub's own HTTP client: what it raises when a server cannot be reached
from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled

from tuner.errors import ENVIRONMENT, TuneError
from tuner.worker_env import UNREACHABLE as HUB_UNREACHABLE

TOKEN_PAGE = "https://huggingface.co/settings/tokens"
FIXES = {
    400: "the Hub did not accept the request: check the names in `hub.*`",
    401: f"log in with `hf auth login`, or set HF_TOKEN to a token with write access ({TOKEN_PAGE})",
    403: f"use a token that may write there ({TOKEN_PAGE}), or a `hub.repo_id` under your own name",
    404: "check the name and the revision; a private repository looks the same as none when the token cannot see it",
    409: "another operation on this repository is going on: try again in a minute",
    429: "the Hub asks for a pause: try again in a few minutes",
}
BROKEN = "the Hub has trouble (https://status.huggingface.co): try again later"
UNREACHABLE = "check the network, HTTPS_PROXY and HF_ENDPOINT, then run the same command again: finished stages are kept"


@contextlib.contextmanager
def hub_errors(doing: str, *, where: str = "hub.repo_id") -> Iterator[None]:
    """Raise TuneError (code 4) for whatever the Hub refuses while `doing`. No token ever enters the message."""
    try:
        yield
    except Exception as error:
        # One file of several that failed to upload comes as a RuntimeError; the reason is its cause.
        found = _explained(error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error)
        if found is None:
            raise
        what, fix = found
        raise TuneError(f"cannot {doing}: {_masked(what)}", where, fix, code=ENVIRONMENT) from error


def _explained(error: BaseException) -> tuple[str, str] | None:
    """(what is wrong, what to do); None for what is no fault of the Hub, the network or the recipe."""
    if isinstance(error, OfflineModeIsEnabled) and (reason := os.environ.get(HUB_UNREACHABLE)):
        return f"the Hub cannot be reached ({reason})", UNREACHABLE
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set", "unset HF_HUB_OFFLINE"
    if isinstance(error, LocalTokenNotFoundError):
        return "there is no Hub token", FIXES[401]
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        said = f": {error.server_message}" if error.server_message else ""
        return f"the Hub answered {status}{said}", FIXES.get(status, BROKEN if status >= 500 else FIXES[400])
    if isinstance(error, httpx2.HTTPError):
        return f"the Hub cannot be reached ({error})", UNREACHABLE
    if isinstance(error, HFValidationError):
        return str(error), "a Hub name is owner/name, of letters, digits, `-`, `_` and `.`"
    if isinstance(error, ValueError) and "README.md" in str(error):  # what the Hub says of a card's metadata before it takes the commit
        return str(error), "check `hub.license` and `model.license`"
    return None


def _masked(text: str) -> str:
    token = get_token()
    return text.replace(token, "hf_***") if token else text
