"""The Hub's endpoints, as paths that huggingface_hub 2.4 calls. One more is one more function under `@route("GET", "/api/…")`."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import parse_qs

import yaml

from tests.hub.server import HubServer, as_json, route
from tests.hub.store import HubError, Request, described, is_large, listed

REPO = r"(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)"
FILES = r"/(?:(?P<kind>datasets)/)?(?P<repo>[^/]+/[^/]+)"


@route("GET", "/api/whoami-v2")
def whoami(hub: HubServer, request: Request) -> Any:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    return request.user


@route("POST", "/api/validate-yaml")
def validate_yaml(hub: HubServer, request: Request) -> Any:
    header = re.match(r"---\n(.*?)\n---", request.json["content"], re.DOTALL)
    metadata = yaml.safe_load(header.group(1)) if header else {}
    faults = [{"message": f'"{k}" must be text'} for k in ("license", "library_name") if not isinstance(metadata.get(k, ""), str)]
    return as_json({"errors": faults, "warnings": []}, status=400 if faults else 200)


@route("POST", "/api/repos/create")
def create_repo(hub: HubServer, request: Request) -> Any:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    asked = request.json
    kind, repo_id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or request.user['name']}/{asked['name']}"
    if not hub.may(request.user, repo_id, write=True):
        raise HubError(403, "You don't have the rights to create a repository under this namespace")
    url = f"{hub.url}/{repo_id}" if kind == "models" else f"{hub.url}/{kind}/{repo_id}"
    if (kind, repo_id) in hub.repos:
        return as_json({"error": "You already created this repo", "url": url}, status=409)
    hub.add_repo(repo_id, kind=kind, private=asked.get("visibility") == "private")
    return {"url": url}


@route("GET", rf"/api/{REPO}(?:/revision/(?P<revision>[^/]+))?")
def repo_info(hub: HubServer, request: Request) -> Any:
    repo = hub.repo(request)
    commit = repo.at(request.parts.get("revision", "main"))
    siblings = [{"rfilename": path} for path in commit.files]
    return {"id": repo.id, "sha": commit.oid, "private": repo.private, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0}


@route("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?")
def tree(hub: HubServer, request: Request) -> Any:
    """The files and folders of a folder; what is deeper too, unless the query says `recursive=false`."""
    files, folder = hub.repo(request).at(request.parts["revision"]).files, request.parts.get("path", "")
    found = listed(files, folder)
    if folder and not found:
        raise HubError(404, f"{folder} does not exist", code="EntryNotFound")
    deep = request.query.get("recursive", "true") != "false"
    return [entry for entry in found if deep or "/" not in entry["path"].removeprefix(f"{folder}/")]


@route("POST", rf"/api/{REPO}/paths-info/(?P<revision>[^/]+)")
def paths_info(hub: HubServer, request: Request) -> Any:
    """The entries of some paths; one that is not there is left out."""
    found = listed(hub.repo(request).at(request.parts["revision"]).files, "")
    return [entry for entry in found if entry["path"] in parse_qs(request.body.decode())["paths"]]


@route("GET", rf"/api/{REPO}/refs")
def refs(hub: HubServer, request: Request) -> Any:
    branches = hub.repo(request).branches.items()
    return {"branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c[-1].oid} for n, c in branches], "converts": [], "tags": []}


@route("POST", rf"/api/{REPO}/branch/(?P<branch>[^/]+)")
def create_branch(hub: HubServer, request: Request) -> Any:
    repo = hub.repo(request, write=True)
    if request.parts["branch"] in repo.branches:
        raise HubError(409, "Reference already exists")
    start = repo.at((json.loads(request.body or b"{}")).get("startingPoint", "main"))
    repo.branches[request.parts["branch"]] = [start]
    return {}


@route("POST", rf"/api/{REPO}/preupload/(?P<revision>[^/]+)")
def preupload(hub: HubServer, request: Request) -> Any:
    present = hub.repo(request, write=True).at(request.parts["revision"]).files

    def mode(asked: dict[str, Any]) -> dict[str, Any]:
        entry = described(asked["path"], present[asked["path"]]) if asked["path"] in present else {}
        oid = entry["lfs"]["oid"] if "lfs" in entry else entry.get("oid")
        upload = "lfs" if is_large(asked["path"], asked["size"]) else "regular"
        return {"path": asked["path"], "uploadMode": upload, "shouldIgnore": False, "oid": oid}

    return {"files": [mode(asked) for asked in request.json["files"]]}


@route("POST", rf"{FILES}\.git/info/lfs/objects/batch")
def lfs_batch(hub: HubServer, request: Request) -> Any:
    hub.repo(request, write=True)

    def action(asked: dict[str, Any]) -> dict[str, Any]:
        links = {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}, "verify": {"href": f"{hub.url}/lfs/verify"}}
        return asked if asked["oid"] in hub.large else asked | {"actions": links}

    return {"transfer": "basic", "objects": [action(asked) for asked in request.json["objects"]]}


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def lfs_upload(hub: HubServer, request: Request) -> Any:
    if hashlib.sha256(request.body).hexdigest() != request.parts["oid"]:
        raise HubError(400, "the content is not what its name says")
    hub.large[request.parts["oid"]] = request.body
    return {}


@route("POST", "/lfs/verify")
def lfs_verify(hub: HubServer, request: Request) -> Any:
    if request.json["oid"] not in hub.large:
        raise HubError(404, "not uploaded")
    return {}


@route("POST", rf"/api/{REPO}/commit/(?P<revision>[^/]+)")
def commit(hub: HubServer, request: Request) -> Any:
    repo = hub.repo(request, write=True)
    files, message = dict(repo.at(request.parts["revision"]).files), ""
    for line in map(json.loads, request.body.splitlines()):
        value = line["value"]
        if line["key"] == "header":
            message = value["summary"]
        elif line["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
            files[value["path"]] = hub.large[value["oid"]]
        elif line["key"] == "deletedFile":
            del files[value["path"]]
        else:
            raise HubError(400, f"this server has no {line['key']}")
    made = repo.commit(request.parts["revision"], files, message)
    return {"success": True, "commitOid": made.oid, "commitUrl": f"{hub.url}/{repo.id}/commit/{made.oid}"}


@route("GET|HEAD", rf"{FILES}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(hub: HubServer, request: Request) -> Any:
    found = hub.repo(request).at(request.parts["revision"])
    path = request.parts["path"]
    if path not in found.files:
        raise HubError(404, "Entry not found", code="EntryNotFound")
    content = found.files[path]
    entry = described(path, content)
    etag = entry["lfs"]["oid"] if "lfs" in entry else entry["oid"]
    headers = {"X-Repo-Commit": found.oid, "ETag": f'"{etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if "lfs" in entry:
        headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
    if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")):
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        return 206, headers | {"Content-Range": f"bytes {first}-{last}/{len(content)}"}, content[first : last + 1]
    return 200, headers, content
