"""Files elsewhere: `with local("s3://bucket/train.csv") as path:` gives a copy on this machine, for as long as the block runs.

A copy, since formats such as Parquet read back and forth, and a connection that breaks half-way must not look like the end of the file.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import fsspec

from tuner.errors import ENVIRONMENT, TuneError
from tuner.files import base_name, has_password, is_remote

_TIMEOUT_S = 60


def shown(path: str) -> str:
    """A path or URL as messages say it: without user, password and query, where keys may stand."""
    if not is_remote(path):
        return path
    protocol, _, rest = path.partition("://")
    host, slash, inside = (re.split(r"[?#]", rest, maxsplit=1)[0] if is_web(path) else rest).partition("/")
    return f"{protocol}://{host.rpartition('@')[2]}{slash}{inside}"


def is_web(path: str) -> bool:
    """Whether a path is a web address."""
    return path.lower().startswith(("http://", "https://"))


@contextmanager
def local(path: str) -> Iterator[str]:
    """A path on this machine: the same one, or a temporary copy of a URL's content. Raises TuneError (code 4) when it cannot be had."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="tuner-") as folder:
        copy = os.path.join(folder, base_name(path) or "file")  # the name's ending says the format
        _fetch(path, copy)
        yield copy


def expand(path: str) -> list[str]:
    """The files of a remote glob (`s3://bucket/*.csv`), in order; any other path as it is. Raises TuneError when nothing matches."""
    if not is_remote(path) or "*" not in path or is_web(path):
        return [path]
    try:
        system, inner = fsspec.core.url_to_fs(path)
        found = sorted(system.unstrip_protocol(name) for name in system.glob(inner))
    except Exception as error:  # every protocol has errors of its own: botocore, google, azure …
        raise _failed(path, error) from error
    if not found:
        raise TuneError("nothing matches", shown(path), "check the pattern")
    return found


def _fetch(path: str, copy: str) -> None:
    if "@" in path and has_password(path.partition("?")[0]):
        fix = "take it out: credentials belong into the environment or the protocol's own settings"
        raise TuneError("the URL holds a password", shown(path), fix)
    try:
        with open(copy, "wb") as target:
            if is_web(path):
                _download(path, target)
            else:
                with fsspec.open(path, "rb") as stream:
                    shutil.copyfileobj(stream, target, 1 << 20)
    except Exception as error:  # every protocol has errors of its own
        raise _failed(path, error) from error


def _download(url: str, target: IO[bytes]) -> None:
    """By the standard library: fsspec needs aiohttp for it."""
    with urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "tuner"}), timeout=_TIMEOUT_S) as response:
        shutil.copyfileobj(response, target, 1 << 20)
        if response.length:  # http.client takes a connection that ends early for the end of the file
            raise http.client.IncompleteRead(b"", response.length)


def _failed(path: str, error: Exception) -> TuneError:
    protocol = path.split("://", 1)[0]
    if isinstance(error, urllib.error.HTTPError):
        error.close()
    if isinstance(error, ImportError):
        needed = re.search(r"\binstall (?:the )?[`'\"]?([\w\[\]-]+)", str(error), re.IGNORECASE)
        fix = f"pip install {needed[1]}" if needed else f"install the package that fsspec needs for {protocol}://"
        return TuneError(f"{protocol}:// needs a package that is not installed: {error}", shown(path), fix, code=ENVIRONMENT)
    what = str(error).replace(path, shown(path)) or type(error).__name__
    fix = "check the address, the network and the credentials, or fetch the file and give its path"
    return TuneError(f"cannot fetch the file: {what}", shown(path), fix, code=ENVIRONMENT)
