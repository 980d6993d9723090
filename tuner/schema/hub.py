"""The `hub:` section: where the result is published. `hub: {repo_id: me/tickets-lora}`; without `repo_id`, into a local folder."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.schema.base import Section, opt


@dataclass(kw_only=True)
class Hub(Section):
    """Publication of the result with its model card, metrics and recipe."""

    enabled: bool = opt(True, affects="publish")
    """Whether anything is published, locally or on the Hub."""
    repo_id: str | None = opt(None, affects="publish")
    """Hub repository (`owner/name`, created if absent); none: the folder `published/` is laid out as one."""
    private: bool = opt(True, affects="publish")
    """Visibility of a repository that is created."""
    revision: str | None = opt(None, affects="publish")
    """Branch to push to."""
    report: bool = opt(False, affects="publish")
    """Publish `report.html` as well: it shows training and held-out rows."""
    license: str | None = opt(None, affects="publish")
    """Licence of the result; default: the base model's."""
