"""Without a network the Hub's client is told so within seconds, and a Hub that answers anything at all is left to it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tuner import worker_env
from tuner.errors import TuneError


@pytest.fixture(autouse=True)
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither offline nor behind a proxy; what is set here goes away."""
    monkeypatch.setattr(os, "environ", os.environ.copy())
    for name in [n for n in os.environ if n.lower().endswith("_proxy") or n == "HF_HUB_OFFLINE"]:
        del os.environ[name]
    monkeypatch.setattr(worker_env, "CONNECT_S", 0.5)


@contextmanager
def answering(status: int) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def found(endpoint: str) -> str | None:
    os.environ["HF_ENDPOINT"] = endpoint
    return worker_env.without_hub()


def test_nobody_there_a_silent_server_and_a_name_that_is_none() -> None:
    assert "refused" in str(found("http://127.0.0.1:9"))
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    del os.environ["HF_HUB_OFFLINE"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert "no answer within" in str(found(f"http://127.0.0.1:{silent.getsockname()[1]}"))
    del os.environ["HF_HUB_OFFLINE"]
    assert "cannot be reached" in str(found("http://no-such-host.invalid"))


@pytest.mark.parametrize("status", [200, 401, 404, 503])
def test_whatever_answers_is_left_to_the_client(status: int) -> None:
    with answering(status) as endpoint:
        assert found(endpoint) is None
    assert "HF_HUB_OFFLINE" not in os.environ


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "https_proxy"])
def test_it_is_not_asked_offline_or_behind_a_proxy(name: str) -> None:
    os.environ[name] = "1" if name == "HF_HUB_OFFLINE" else "http://127.0.0.1:9"
    assert found("http://127.0.0.1:9") is None


def test_what_fails_later_says_that_the_hub_was_not_reached() -> None:
    from huggingface_hub.errors import OfflineModeIsEnabled

    from tuner.hub.client import hub_errors

    found("http://127.0.0.1:9")
    with pytest.raises(TuneError, match=r"cannot push: the Hub cannot be reached \(.*refused") as caught, hub_errors("push"):
        raise OfflineModeIsEnabled("offline")
    assert "HTTPS_PROXY" in caught.value.problems[0].fix
