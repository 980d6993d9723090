"""Publishing as a person does it: `tune push` in a process of its own, against a Hub on this machine, read back by the real client."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from tests.hub.server import HubServer
from tests.synthetic import write_run
from tuner.commands.amend import amend
from tuner.errors import TuneError
from tuner.hub.card import write_card
from tuner.hub.preflight import may_write
from tuner.hub.push import publish
from tuner.hub.revisions import commits, resolve
from tuner.plan import amended, read_plan
from tuner.runs import is_done, read_json

TOKEN = "hf_" + "aB3" * 11 + "q"
UNREACHABLE = "http://127.0.0.1:9"  # the discard port: nobody listens
PUBLISHED = {  # of a run whose report was not written yet
    "README.md", "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "generation_config.json", "metrics.json",
    "recipe.yaml", "tokenizer.json", "tokenizer_config.json", "train_log.jsonl",
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """A Hub with a person on it."""
    with HubServer() as server:
        server.add_user("me", token=TOKEN, orgs={"firm": "write", "club": "read"})
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run's folder."""
    return write_run(tmp_path)


def command(tmp_path: Path, argv: list[str], *, url: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """Run a command as a person with this token, on whose machine the Hub is `url`."""
    own = {"HF_ENDPOINT": url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    environment = os.environ | own | {"PYTHONPATH": os.pathsep.join(sys.path)} | ({"HF_TOKEN": token} if token else {})
    return subprocess.run(argv, capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=60, check=False)


def push(folder: Path, *overrides: str, url: str, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
    """`tune push`; whatever it says must not hold the token."""
    done = command(folder.parents[2], [sys.executable, "-m", "tuner", "push", str(folder), "--json", *overrides], url=url, token=token)
    assert token is None or token not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_without_a_repository_a_folder_is_laid_out_like_one(folder: Path, tmp_path: Path) -> None:
    done = push(folder, url=UNREACHABLE, token=None)
    assert done.returncode == 0, done.stderr
    published = Path(json.loads(done.stdout)["folder"])
    assert published == folder / "published"
    assert {p.name for p in published.iterdir()} == PUBLISHED
    assert (published / "adapter_model.safetensors").read_bytes() == (folder / "adapter_model.safetensors").read_bytes()
    assert read_json(published / "adapter_config.json")["base_model_name_or_path"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert str(tmp_path) in read_json(folder / "adapter_config.json")["base_model_name_or_path"]
    for path in published.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_the_report_goes_along_only_when_asked(folder: Path) -> None:
    (folder / "report.html").write_text("<p>rows</p>", encoding="utf-8")
    done = push(folder, "hub.report=true", url=UNREACHABLE, token=None)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (folder / "published").iterdir()} == PUBLISHED | {"report.html"}


def test_layout_is_swapped_whole(folder: Path) -> None:
    plan = read_plan(folder / "plan.json")
    write_card(folder)
    publish(plan, plan.load_recipe(), progress=lambda _: None)
    (folder / "published" / "stale.txt").write_text("of before")
    (folder / ".published.partial").mkdir()
    publish(plan, plan.load_recipe(), progress=lambda _: None)
    assert {p.name for p in (folder / "published").iterdir()} == PUBLISHED
    assert not list(folder.glob(".published*"))


def test_a_run_without_weights_is_not_published(folder: Path) -> None:
    (folder / "adapter_model.safetensors").unlink()
    plan = read_plan(folder / "plan.json")
    with pytest.raises(TuneError, match="no weights") as caught:
        publish(plan, plan.load_recipe(), progress=lambda _: None)
    assert caught.value.code == 4
    assert not (folder / "published").exists()


def test_published_to_a_hub_and_downloaded_again(folder: Path, hub: HubServer, tmp_path: Path) -> None:
    done = push(folder, "hub.repo_id=me/tickets", url=hub.url)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    repo = hub.repos["models", "me/tickets"]
    first, made = repo.branches["main"]
    assert result == {"folder": str(folder / "published"), "url": f"{hub.url}/me/tickets", "commit": made.oid}
    assert made.message == f"quickstart@{folder.name}: exact match 0.02 → 0.78 (+0.76, 95 % interval 0.69–0.83)"
    assert repo.private
    assert hub.large.keys() == {hashlib.sha256((folder / "adapter_model.safetensors").read_bytes()).hexdigest()}
    target = tmp_path / "again"
    script = f"from huggingface_hub import snapshot_download; snapshot_download('me/tickets', local_dir={str(target)!r})"
    fetched = command(tmp_path, [sys.executable, "-c", script], url=hub.url)
    assert fetched.returncode == 0, fetched.stderr
    assert {p.name: p.read_bytes() for p in target.iterdir() if p.is_file() and p.name != ".gitattributes"} == {
        p.name: p.read_bytes() for p in (folder / "published").iterdir()
    }
    plan = read_plan(folder / "plan.json")
    assert plan.recipe["hub"]["repo_id"] == "me/tickets"
    assert plan.stage("publish").done
    assert plan.stage("train").done
    assert first.files.keys() == {".gitattributes"}


def test_pushing_the_same_again_makes_no_commit(folder: Path, hub: HubServer) -> None:
    results = [push(folder, "hub.repo_id=firm/tickets", "hub.private=false", url=hub.url) for _ in range(2)]
    assert [r.returncode for r in results] == [0, 0], results[1].stderr
    assert json.loads(results[0].stdout)["commit"] == json.loads(results[1].stdout)["commit"]
    assert not hub.repos["models", "firm/tickets"].private
    assert len(hub.repos["models", "firm/tickets"].branches["main"]) == 2


def test_a_branch_is_made_and_main_left_alone(folder: Path, hub: HubServer) -> None:
    hub.add_repo("me/tickets")
    done = push(folder, "hub.repo_id=me/tickets", "hub.revision=trial", url=hub.url)
    assert done.returncode == 0, done.stderr
    branches = hub.repos["models", "me/tickets"].branches
    assert branches["main"][-1].files.keys() == {".gitattributes"}
    assert branches["trial"][-1].files.keys() == PUBLISHED | {".gitattributes"}
    assert json.loads(done.stdout)["url"].endswith("/me/tickets/tree/trial")


@pytest.mark.parametrize(
    ("role", "writes", "repo_id", "said"),
    [
        ("read", (), "me/tickets", "can only read"),
        ("fineGrained", ("me/other",), "me/tickets", "cannot write to me/tickets"),
        ("write", (), "club/tickets", "cannot create it under club"),
        ("write", (), "stranger/tickets", "choose one of your own places: me, firm"),
    ],
)
def test_a_token_that_may_not_write_is_refused_before_anything(
    folder: Path, hub: HubServer, role: str, writes: tuple[str, ...], repo_id: str, said: str
) -> None:
    hub.add_user("me", token=TOKEN, role=role, writes=writes, orgs={"firm": "write", "club": "read"})
    done = push(folder, f"hub.repo_id={repo_id}", url=hub.url)
    assert done.returncode == 4
    assert said in done.stderr
    assert {c.split()[0] for c in hub.calls} == {"GET"}
    assert not hub.repos
    assert read_plan(folder / "plan.json").recipe["hub"]["repo_id"] is None


@pytest.mark.parametrize(("writes", "allowed"), [(("me",), True), (("me/tickets",), True), (("me/other",), False)])
def test_what_a_fine_grained_token_may_write(hub: HubServer, writes: tuple[str, ...], allowed: bool) -> None:
    hub.add_user("me", token=TOKEN, role="fineGrained", writes=writes)
    assert (may_write(hub.users[TOKEN], "me/tickets") is None) == allowed


def test_a_wrong_token(folder: Path, hub: HubServer) -> None:
    done = push(folder, "hub.repo_id=me/tickets", url=hub.url, token="hf_wrongwrongwrong")
    assert done.returncode == 4
    assert "the Hub answered 401" in done.stderr
    assert "hf auth login" in done.stderr


def test_no_token(folder: Path, hub: HubServer) -> None:
    done = push(folder, "hub.repo_id=me/tickets", url=hub.url, token=None)
    assert done.returncode == 4
    assert "there is no Hub token" in done.stderr
    assert not hub.calls


def test_no_hub(folder: Path) -> None:
    done = push(folder, "hub.repo_id=me/tickets", url=UNREACHABLE)
    assert done.returncode == 4
    assert "cannot be reached" in done.stderr
    assert not list((folder / "stages").glob("publish-*"))


@pytest.mark.parametrize(
    ("name", "secret"), [("recipe.yaml", "hf_" + "Zz9" * 11), ("tokenizer_config.json", TOKEN), ("train_log.jsonl", TOKEN)]
)
def test_a_token_in_a_file_is_never_published(folder: Path, hub: HubServer, name: str, secret: str) -> None:
    with (folder / name).open("a", encoding="utf-8") as stream:
        stream.write(f'{{"text": "my token is {secret}"}}\n')
    done = push(folder, "hub.repo_id=me/tickets", url=hub.url)
    assert done.returncode == 4
    assert f"{name} holds a Hub token" in done.stderr
    assert secret not in done.stderr
    assert not hub.repos
    assert not (folder / "published").exists()


def test_only_hub_keys_can_change(folder: Path, hub: HubServer) -> None:
    done = push(folder, "trainer.learning_rate=1", "hub.privat=true", "hub.repo_id=me", url=hub.url)
    assert done.returncode == 2
    assert "`trainer.learning_rate` cannot change in a finished run" in done.stderr
    assert "did you mean `hub.private`?" in done.stderr
    assert "no repository name: 'me'" in done.stderr


def test_a_push_changes_the_publish_stage_alone(folder: Path) -> None:
    plan = read_plan(folder / "plan.json")
    same = amended(plan, plan.load_recipe(), folder=folder, anew=("publish",))
    assert {s.name: s.key for s in same.stages} == {s.name: s.key for s in plan.stages}
    recipe = plan.load_recipe()
    recipe.hub.repo_id = "me/tickets"
    changed = amended(plan, recipe, folder=folder, anew=("publish",))
    assert [s.name for s in changed.stages if s.key != plan.stage(s.name).key] == ["publish"]
    assert changed.origins["hub.repo_id"] == "command line"
    assert not is_done(folder, "publish", changed.stage("publish").key)


def test_a_run_that_never_published_can_be_pushed(tmp_path: Path, hub: HubServer) -> None:
    folder = write_run(tmp_path, "hub=none")
    assert not read_plan(folder / "plan.json").has("publish")
    assert push(folder, "hub.repo_id=me/tickets", url=hub.url).returncode == 0
    assert hub.repos["models", "me/tickets"].branches["main"][-1].files.keys() >= PUBLISHED


def test_revisions_become_commits(tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    model = hub.add_repo("org/model").at("main").oid
    rows = hub.add_repo("org/rows", kind="datasets")
    rows.branches["v2"] = [rows.commit("v2", {"a.jsonl": b"{}"}, "second")]
    folder = write_run(tmp_path, "model.source=hub", "model.id=org/model", "data=custom", "data.id=org/rows", "data.revision=v2")
    recipe = read_plan(folder / "plan.json").load_recipe()
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert commits(recipe) == {}
    assert HfApi().endpoint == hub.url
    resolve(recipe)
    assert (recipe.model.revision, recipe.data.revision) == (model, rows.at("v2").oid)
    assert commits(recipe) == {"model": model, "data": rows.at("v2").oid}
    monkeypatch.setattr(constants, "ENDPOINT", UNREACHABLE)
    with pytest.raises(TuneError, match="cannot be reached") as caught:
        resolve(dataclasses.replace(recipe))
    assert caught.value.code == 4


def test_commits_of_branches_come_from_the_local_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path, "model.source=hub", "model.id=org/model", "model.revision=v1")
    recipe = read_plan(folder / "plan.json").load_recipe()
    reference = tmp_path / "cache" / "models--org--model" / "refs" / "v1"
    reference.parent.mkdir(parents=True)
    reference.write_text("0" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert commits(recipe) == {"model": "0" * 40}


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_published_files_have_the_rights_of_new_files(folder: Path, umask: int, mode: int) -> None:
    (folder / "adapter_model.safetensors").chmod(0o600)  # as safetensors leaves it
    plan = read_plan(folder / "plan.json")
    before = os.umask(umask)
    try:
        publish(plan, plan.load_recipe(), progress=lambda _: None)
    finally:
        os.umask(before)
    assert {oct(p.stat().st_mode & 0o777) for p in (folder / "published").iterdir()} == {oct(mode)}


def test_a_key_of_another_verb_names_the_command_that_takes_it(folder: Path) -> None:
    plan = read_plan(folder / "plan.json")
    with pytest.raises(TuneError) as caught:
        amend(plan, ["eval.limit=2", "eval=loss", "trainer.learning_rate=1"], section="hub", folder=folder)
    fixes = [p.fix.partition("`hub` alone")[2] for p in caught.value.problems]
    assert fixes == [
        f": `tune eval {folder} eval.limit=2`",
        f"; anything else is a new run: `tune recipe={folder}/recipe.yaml eval=loss`",
        f"; anything else is a new run: `tune recipe={folder}/recipe.yaml trainer.learning_rate=1`",
    ]
    with pytest.raises(TuneError) as caught:
        amend(plan, ["hub.private=false"], section="eval", folder=folder)
    assert f"`tune push {folder} hub.private=false`" in caught.value.problems[0].fix


def test_a_run_without_a_result_names_its_own_recipe(folder: Path) -> None:
    for marker in (folder / "stages").glob("train-*"):
        marker.unlink()
    done = push(folder, url=UNREACHABLE)
    assert done.returncode == 2
    assert f"`tune recipe={folder.relative_to(folder.parents[2])}/recipe.yaml`" in done.stderr


def test_the_hub_client_does_not_tell_of_every_retry(tmp_path: Path) -> None:
    """What fails in the end is told by us, once."""
    script = (
        "from tuner.worker_env import quiet; quiet()\n"
        "from huggingface_hub.utils import http_backoff\n"
        f"http_backoff('GET', {UNREACHABLE!r}, max_retries=1, base_wait_time=0.01)\n"
    )
    done = command(tmp_path, [sys.executable, "-c", script], url=UNREACHABLE)
    assert "ConnectError" in done.stderr
    assert "Retrying" not in done.stderr
    assert "thrown while requesting" not in done.stderr
