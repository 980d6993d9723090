"""`tune doctor`: findings with a fix, no second list of versions, no token on the screen, no waiting for a dead network."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import EntryPoint

import pytest
from packaging.requirements import Requirement

from tuner.cli import main
from tuner.commands import doctor_, machine, packages

SECRET = "hf_" + "s" * 34


@pytest.fixture
def hub_server() -> Iterator[tuple[str, list[int]]]:
    """A Hub that answers `/api/whoami-v2` with the code in the list."""
    answer = [200]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer[0])
            self.end_headers()
            self.wfile.write(json.dumps({"name": "somebody"}).encode())

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", answer
    server.shutdown()
    server.server_close()


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: SECRET)
    return monkeypatch


@pytest.mark.usefixtures("project")
def test_findings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (0 if found["ok"] else 4)
    assert {"python", "package", "processor", "disk", "hub", "extension"} <= {f["check"] for f in found["findings"]}
    assert any(f["what"].startswith("torch ") for f in found["findings"])
    assert all(f["fix"] for f in found["findings"] if f["status"] != "ok")


@pytest.mark.usefixtures("project")
def test_a_failure_is_exit_code_4_and_has_its_fix(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = [(Requirement("torch>=99"), ""), (Requirement("no-such-package>=1"), ""), (Requirement("no-such-tracker"), "wandb")]
    monkeypatch.setattr(packages, "supported", lambda: (">=99", wanted))
    assert doctor_.main([]) == 4
    text = capsys.readouterr().out
    for line in (
        "is outside of >=99",
        'pip install "torch>=99"',
        "no-such-package is not installed",
        "no-such-tracker (wandb)",
        "3 to mend",
    ):
        assert line in text


def test_versions_are_those_of_the_distribution() -> None:
    wanted, needed = packages.supported()
    assert wanted == ">=3.11"
    names = {r.name for r, extra in needed if not extra}
    assert {"hydra-core", "omegaconf", "torch", "transformers"} <= names
    assert "pytest" not in names
    assert "qlora" in {extra for r, extra in needed if r.name == "bitsandbytes"}


def test_a_package_of_two_extras_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        (Requirement("pytest>=1"), "test"),
        (Requirement("pytest>=1"), "dev"),
        (Requirement("absent-one"), "a"),
        (Requirement("absent-one"), "b"),
    ]
    monkeypatch.setattr(packages, "supported", lambda: (">=3", wanted))
    told = [f.what for f in packages.versions()]
    assert len(told) == 2
    assert told[1] == "optional, not installed: absent-one (a)"


def test_an_answer_names_the_user_and_never_the_token(
    online: pytest.MonkeyPatch, hub_server: tuple[str, list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint, answer = hub_server
    online.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    for code, status, text in (
        (200, "ok", "logged in as somebody"),
        (401, "warn", "refuses the token"),
        (502, "warn", "HTTP 502: no Hub is there"),
    ):
        answer[0] = code
        (finding,) = machine.hub()
        assert (finding.status, text in finding.what) == (status, True)
        assert SECRET not in str(finding)


def test_without_a_token_the_hub_is_still_reached(online: pytest.MonkeyPatch, hub_server: tuple[str, list[int]]) -> None:
    endpoint, answer = hub_server
    answer[0] = 401
    online.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    online.setattr("huggingface_hub.get_token", lambda: None)
    (finding,) = machine.hub()
    assert finding.status == "ok"
    assert "no token" in finding.what


def test_a_dead_network_costs_no_more_than_the_timeout(online: pytest.MonkeyPatch) -> None:
    released = threading.Event()

    class Dead:
        def get(self, *args: object, **kwargs: object) -> None:
            released.wait(30)
            raise OSError(f"quotes {SECRET}")

    online.setattr("huggingface_hub.get_session", Dead)
    online.setattr(machine, "TIMEOUT_S", 0.2)
    began = time.perf_counter()
    (finding,) = machine.hub()
    released.set()
    assert time.perf_counter() - began < 3
    assert finding.status == "warn"
    assert SECRET not in str(finding)


def test_offline_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: True)
    (finding,) = machine.hub()
    assert finding.status == "ok"


@pytest.mark.parametrize(("free", "status"), [(10**11, "ok"), (3 * 10**9, "warn"), (10**8, "fail")])
def test_little_space(free: int, status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": free})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert {f.status for f in machine.disk()} == {status}


def test_a_broken_extension_does_not_hide_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = EntryPoint(name="mine", value="no_such_module_at_all", group="tuner.extensions")
    monkeypatch.setattr(packages, "entry_points", lambda group: [broken])
    (finding,) = packages.extensions()
    assert finding.status == "fail"
    assert "no_such_module_at_all" in finding.what
