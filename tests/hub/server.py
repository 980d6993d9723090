"""A Hub in memory, spoken to by the real client through HF_ENDPOINT: `with HubServer() as hub: hub.add_user("me", token="hf_x")`.

Large files are kept by their sha256, as LFS does. No Xet: clients need HF_HUB_DISABLE_XET=1. What it answers stands in endpoints.py.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, unquote

from tests.hub.store import HubError, Repo, Request

Answer = tuple[int, dict[str, str], bytes]
Handler = Callable[["HubServer", Request], Any]
ROUTES: list[tuple[str, re.Pattern[str], Handler]] = []


def route(method: str, pattern: str) -> Callable[[Handler], Handler]:
    """Register a handler; it returns an Answer, or a value to send as JSON."""

    def register(handler: Handler) -> Handler:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return register


def as_json(value: Any, *, status: int = 200) -> Answer:
    """`value` as an answer."""
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


@dataclass
class Fault:
    """What becomes of the next `times` calls that match (`POST /api/models/.*/commit/.*`): a status, or the connection is dropped."""

    calls: str
    status: int = 0  # 0: dropped, before anything is answered
    times: int = 1
    retry_after: int | None = None
    slow_s: float = 0.0  # answered as it should be, but late


class HubServer:
    """The server; `url` is what HF_ENDPOINT must be. `calls` lists what was asked, as "POST /api/repos/create"."""

    def __init__(self) -> None:
        import_module("tests.hub.endpoints")  # registers its routes; it needs this module itself, so not at the top
        self.users: dict[str, dict[str, Any]] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    def add_user(
        self, name: str, *, token: str, role: str = "write", writes: tuple[str, ...] = (), orgs: dict[str, str] | None = None
    ) -> None:
        """A person with a token. `role`: read, write or fineGrained (which may write to `writes`); `orgs`: organisation -> role in it."""
        access: dict[str, Any] = {"displayName": "test", "role": role}
        if role == "fineGrained":
            entities = [{"entity": {"type": "model" if "/" in w else "user", "name": w}, "permissions": ["repo.write"]} for w in writes]
            access["fineGrained"] = {"global": [], "scoped": entities}
        members = [{"type": "org", "name": o, "roleInOrg": r} for o, r in (orgs or {}).items()]
        self.users[token] = {"type": "user", "name": name, "orgs": members, "auth": {"type": "access_token", "accessToken": access}}

    def add_repo(self, id: str, files: dict[str, bytes] | None = None, *, kind: str = "models", private: bool = False) -> Repo:
        """A repository with one commit."""
        repo = self.repos[kind, id] = Repo(kind, id, private)
        repo.commit("main", files or {".gitattributes": b"*.safetensors filter=lfs\n"}, "initial commit")
        return repo

    def repo(self, request: Request, *, write: bool = False) -> Repo:
        """The repository that a call is about, if the caller may see it (or write to it)."""
        found = self.repos.get((request.parts.get("kind") or "models", request.parts["repo"]))
        if found is None or (found.private and not self.may(request.user, found.id, write=False)):
            raise HubError(404 if request.user else 401, "Repository not found", code="RepoNotFound")
        if write and not self.may(request.user, found.id, write=True):
            raise HubError(403, "You don't have the rights to write to this repository")
        return found

    def may(self, user: dict[str, Any] | None, repo_id: str, *, write: bool) -> bool:
        """Whether a person may read a private repository, or write."""
        owner = repo_id.partition("/")[0]
        if user is None or owner not in (user["name"], *(o["name"] for o in user["orgs"])):
            return False
        access = user["auth"]["accessToken"]
        scoped = [s["entity"]["name"] for s in access.get("fineGrained", {}).get("scoped", [])]
        return not write or access["role"] == "write" or owner in scoped or repo_id in scoped

    def fault(self, call: str) -> Fault | None:
        """The fault that this call meets, which is then used once."""
        with self.lock:
            found = next((fault for fault in self.faults if fault.times and re.fullmatch(fault.calls, call)), None)
            if found:
                found.times -= 1
        return found

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answer:
        """Find the handler of a call and turn what it returns, or raises, into an answer."""
        path, _, query = path.partition("?")
        self.calls.append(f"{method} {path}")
        token = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            if token and token not in self.users:
                raise HubError(401, "Invalid credentials in Authorization header")
            for verb, pattern, handler in ROUTES:
                if method in verb.split("|") and (found := pattern.fullmatch(path)):
                    parts = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
                    with self.lock:
                        result = handler(self, Request(parts, headers, body, self.users.get(token), dict(parse_qsl(query))))
                    return result if isinstance(result, tuple) else as_json(result)
            raise HubError(404, f"no such page: {path}")
        except HubError as error:
            status, kept, content = as_json({"error": error.message}, status=error.status)
            return status, kept | {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {}), content


def _handler(hub: HubServer) -> type[BaseHTTPRequestHandler]:
    """The bridge from the standard library's server to ours."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {k.lower(): v for k, v in self.headers.items()}
            fault = hub.fault(f"{self.command} {self.path.partition('?')[0]}")
            if fault and not fault.status and not fault.slow_s:
                hub.calls.append("dropped")
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault and fault.status:
                hub.calls.append(f"{fault.status} {self.command} {self.path}")
                self.send_response(fault.status)
                if fault.retry_after is not None:
                    self.send_header("Retry-After", str(fault.retry_after))
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            time.sleep(fault.slow_s if fault else 0)
            status, sent, content = hub.answer(self.command, self.path, headers, body)
            self.send_response(status)
            for name, value in sent.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler
