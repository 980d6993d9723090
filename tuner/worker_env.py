"""The libraries' surroundings, set before they are imported: `quiet()` keeps them from talking over us, `without_hub()` from waiting."""

from __future__ import annotations

import errno
import http.client
import logging
import os
import socket
import threading
import urllib.error
import urllib.request
import warnings

SETTINGS = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",  # it warns of every retry; what fails in the end is told by us
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "critical",  # it reports what it raises, too
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
}
UNREACHABLE = "TUNER_HUB_UNREACHABLE"  # why, where it was found so
CONNECT_S = 5.0


def quiet() -> None:
    """Progress bars, advice and deprecations of libraries off, unless the person's environment says otherwise."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)  # it sets its own level
    warnings.filterwarnings("ignore", module=r"torch|peft|transformers|accelerate|bitsandbytes")


def without_hub() -> str | None:
    """Where the Hub does not answer, have its client use the cache alone, and say why; else None.

    The client would try each file again for half a minute before it does the same. Behind a proxy only the client can tell.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE") or urllib.request.getproxies():
        return None
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    reason = _unreachable(endpoint)
    if reason is None:
        return None
    os.environ |= {"HF_HUB_OFFLINE": "1", UNREACHABLE: reason}
    return f"the Hub ({endpoint}) cannot be reached: {reason}. What is in the cache is used"


def _unreachable(endpoint: str) -> str | None:
    """Why nothing answers within CONNECT_S seconds, looking up the name included; what answers oddly is left to the client."""
    found: list[BaseException | None] = []

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=CONNECT_S).close()
            found.append(None)
        except urllib.error.HTTPError as error:
            error.close()
            found.append(None)
        except urllib.error.URLError as error:
            found.append(error.reason if isinstance(error.reason, BaseException) else error)
        except (OSError, ValueError, http.client.HTTPException) as error:
            found.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(CONNECT_S)
    if not found or isinstance(found[0], TimeoutError):
        return f"no answer within {CONNECT_S:.0f} s"
    error = found[0]
    nobody = isinstance(error, socket.gaierror | ConnectionRefusedError)
    nowhere = isinstance(error, OSError) and error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)
    return str(error) if nobody or nowhere else None
