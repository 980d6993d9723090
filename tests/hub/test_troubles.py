"""What goes wrong at the Hub for a moment is tried again; what stays wrong leaves the run complete, and `tune push` finishes it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

from tests.hub.server import Fault, HubServer
from tests.hub.test_push import TOKEN, command, push
from tests.lab import make_lab
from tests.synthetic import write_run
from tuner.errors import TuneError
from tuner.hub import patience
from tuner.hub.push import NotUploadedError, publish
from tuner.plan import amended, read_plan
from tuner.runs import is_done, read_json
from tuner.schema.recipe import Recipe

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content")  # httpx2, of how huggingface_hub uploads
COMMIT, CREATE = r"POST /api/models/.*/commit/.*", r"POST /api/repos/create"


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add_user("me", token=TOKEN)
        yield server


class Here:
    """A finished run that is published from this process; `waits` are the pauses it took, which are not waited."""

    def __init__(self, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.hub, self.waits, self.told = folder, hub, list[float](), list[str]()
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(patience, "time", SimpleNamespace(sleep=self.waits.append))

    def publish(self) -> dict[str, str]:
        plan = read_plan(self.folder / "plan.json")
        recipe: Recipe = plan.load_recipe()
        recipe.hub.repo_id = "me/tickets"
        return publish(amended(plan, recipe, folder=self.folder, anew=("publish",)), recipe, progress=self.told.append)

    @property
    def commits(self) -> int:
        """Commits of the repository beside the first, which creating it makes."""
        return len(self.hub.repos["models", "me/tickets"].branches["main"]) - 1


@pytest.fixture
def here(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Here:
    return Here(write_run(tmp_path), hub, monkeypatch)


@pytest.mark.parametrize(
    ("fault", "waits"),
    [
        (Fault(CREATE, status=503, times=2), [2, 10]),
        (Fault(COMMIT, status=500), [2]),
        (Fault(COMMIT, status=502, times=3), [2, 10, 40]),
        (Fault(COMMIT, status=429, retry_after=7), [7]),
        (Fault(COMMIT, status=429, retry_after=1), [2]),
        (Fault(COMMIT, status=409), [2]),
        (Fault(COMMIT, times=1), [2]),  # the connection is dropped while it is sent
        (Fault(CREATE, times=2), [2, 10]),
        (Fault(COMMIT, slow_s=0.3), []),
    ],
)
def test_what_passes_is_tried_again(here: Here, fault: Fault, waits: list[int]) -> None:
    here.hub.faults.append(fault)
    found = here.publish()
    assert here.waits == waits
    assert here.commits == 1
    assert found["commit"] == here.hub.repos["models", "me/tickets"].branches["main"][-1].oid
    assert sum("trying again in" in line for line in here.told) == len(waits)


@pytest.mark.parametrize(
    ("fault", "said", "waits"),
    [
        (Fault(COMMIT, status=503, times=9), "the Hub answered 503", [2, 10, 40]),
        (Fault(COMMIT, times=9), "the Hub cannot be reached", [2, 10, 40]),
        (Fault(COMMIT, status=429, retry_after=3600), "the Hub answered 429", []),
        (Fault(COMMIT, status=403), "the Hub answered 403", []),
        (Fault(COMMIT, status=412), "the Hub answered 412", []),
    ],
)
def test_what_stays_is_told_and_a_later_push_finishes_it(here: Here, fault: Fault, said: str, waits: list[int]) -> None:
    here.hub.faults.append(fault)
    with pytest.raises(NotUploadedError, match=said) as told:
        here.publish()
    assert here.waits == waits
    assert told.value.code == 4
    assert TOKEN not in str(told.value) + "".join(here.told)
    assert (here.folder / "published" / "adapter_model.safetensors").is_file(), "what is laid out is kept"
    here.hub.faults.clear()
    here.publish()
    assert here.commits == 1


def test_a_token_in_a_file_is_no_trouble_of_the_hub(here: Here) -> None:
    (here.folder / "recipe.yaml").write_text(f"token: {TOKEN}\n")
    with pytest.raises(TuneError, match="holds a Hub token") as told:
        here.publish()
    assert not isinstance(told.value, NotUploadedError)
    assert ("models", "me/tickets") not in here.hub.repos


def test_a_run_that_cannot_push_is_complete(tmp_path: Path, hub: HubServer) -> None:
    """Code 0 with what is wrong and what to do; the state tells it; `tune push` uploads the same and clears it. No output has the token."""
    lab = make_lab(tmp_path)
    hub.faults.append(Fault(COMMIT, status=403))
    started = [sys.executable, "-m", "tuner", "recipe=small", "trainer.max_steps=1", "hub.repo_id=me/small", "eval.generate=false"]
    done = command(lab.folder, started, url=hub.url)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (lab.folder / "outputs" / "small").iterdir()
    assert "not published: cannot publish to me/small: the Hub answered 403" in done.stderr
    assert f"`tune push small@{run.name}` uploads it" in done.stderr
    plan = read_plan(run / "plan.json")
    assert is_done(run, "train", plan.stage("train").key)
    assert not is_done(run, "publish", plan.stage("publish").key)
    state = read_json(run / "state.json")
    assert (state["status"], "403" in state["reason"]) == ("finished", True)
    assert (run / "report.html").is_file()
    assert (run / "adapter_model.safetensors").is_file()

    later = push(run, url=hub.url)
    assert later.returncode == 0, later.stderr
    assert "reason" not in read_json(run / "state.json")
    head = hub.repos["models", "me/small"].branches["main"][-1]
    assert json.loads(later.stdout)["commit"] == head.oid
    again = command(lab.folder, started, url=hub.url)
    assert "nothing to do" in again.stdout
    written = b"".join(path.read_bytes() for path in lab.folder.rglob("*") if path.is_file() and os.sep + "hf" + os.sep not in str(path))
    assert TOKEN.encode() not in written + (done.stdout + done.stderr + later.stdout + later.stderr).encode()
