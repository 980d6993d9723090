"""What the test Hub keeps: repositories as branches of commits. `repo.commit("main", {"README.md": b"…"}, "first")`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

LARGE = (".safetensors", ".bin", ".gguf", ".parquet", ".png")
LARGE_BYTES = 10_000_000


class HubError(Exception):
    """What the Hub answers instead: a status, and a code that the client maps to its own exceptions."""

    def __init__(self, status: int, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass
class Commit:
    """A state of a repository: `files` holds the content of each path."""

    oid: str
    message: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A repository: its branches, each a list of commits, the newest last."""

    kind: str
    id: str
    private: bool
    branches: dict[str, list[Commit]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> Commit:
        """Append a commit whose files are exactly `files`."""
        before = self.branches.setdefault(branch, [])
        parent = before[-1].oid if before else ""
        material = [self.kind, self.id, parent, message, *(f"{p} {git_oid(c)}" for p, c in sorted(files.items()))]
        before.append(Commit(hashlib.sha1("\n".join(material).encode()).hexdigest(), message, files))
        return before[-1]

    def at(self, revision: str) -> Commit:
        """The commit that a branch or commit id stands for."""
        if revision in self.branches:
            return self.branches[revision][-1]
        found = next((c for commits in self.branches.values() for c in commits if c.oid == revision), None)
        if found is None:
            raise HubError(404, f"Invalid rev id: {revision}", code="RevisionNotFound")
        return found


@dataclass
class Request:
    """One call: the path's named parts, the body, and who is asking (None: anonymous)."""

    parts: dict[str, str]
    headers: dict[str, str]
    body: bytes
    user: dict[str, Any] | None
    query: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def git_oid(content: bytes) -> str:
    """The id that git gives a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str, size: int) -> bool:
    """Whether a file goes through LFS."""
    return path.endswith(LARGE) or size > LARGE_BYTES


def described(path: str, content: bytes) -> dict[str, Any]:
    """A file as a tree lists it."""
    entry = {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}
    if is_large(path, len(content)):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def listed(files: dict[str, bytes], folder: str) -> list[dict[str, Any]]:
    """The files below a folder and the folders that they lie in, as a tree lists them."""
    inside = {path: content for path, content in files.items() if not folder or path.startswith(f"{folder}/")}
    folders = {str(parent) for path in inside for parent in PurePosixPath(path).parents} - {
        ".",
        folder,
        *map(str, PurePosixPath(folder).parents),
    }
    described_folders = [{"type": "directory", "path": path, "oid": git_oid(path.encode()), "size": 0} for path in sorted(folders)]
    return [*described_folders, *(described(path, content) for path, content in inside.items())]
