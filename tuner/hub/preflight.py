"""Whether a push will work, asked before training: `preflight(recipe)` -> problems; empty when all is well or nothing is to be pushed."""

from __future__ import annotations

from typing import Any

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from tuner.errors import Problem, TuneError
from tuner.hub.client import FIXES, TOKEN_PAGE, hub_errors
from tuner.schema.adapter import Full
from tuner.schema.recipe import Recipe

# What a member may be in an organisation to write there; `contributor` only to repositories of their own making.
WRITING_ROLES = ("admin", "write", "contributor")
WHERE = "hub.repo_id"


def preflight(recipe: Recipe) -> list[Problem]:
    """Ask the Hub who the token is and what it may do there: all of it worth an exit with code 4, before any time is spent."""
    repo_id = recipe.hub.repo_id
    if not recipe.hub.enabled or repo_id is None:
        return []
    if recipe.model.run is not None and not isinstance(recipe.adapter, Full):
        what = "this adapter is for a model that only this machine has: another run's adapter merged into its base"
        fix = "leave `hub.repo_id` out, or train one adapter for the base with `adapter.continue_from` instead of `model=run:…`"
        return [Problem(what=what, where=WHERE, fix=fix)]
    if get_token() is None:
        what = f"there is no Hub token, and `hub.repo_id` is {repo_id}"
        return [Problem(what=what, where=WHERE, fix=f"{FIXES[401]}, or push later with `tune push`")]
    api = HfApi()
    try:
        with hub_errors("ask the Hub who the token belongs to"):
            who = api.whoami()
        if problem := may_write(who, repo_id):
            return [problem]
        with hub_errors(f"look for {repo_id}"):
            exists = _exists(api, repo_id)
    except TuneError as error:
        return error.problems
    owner = repo_id.partition("/")[0]
    if not exists and owner not in _namespaces(who):
        places = ", ".join(_namespaces(who))
        what = f"{repo_id} does not exist, and {who['name']} cannot create it under {owner}"
        return [Problem(what=what, where=WHERE, fix=f"choose one of your own places: {places}")]
    return []


def may_write(who: dict[str, Any], repo_id: str) -> Problem | None:
    """What the token's kind forbids. `who` is the Hub's answer to whoami-v2; a token that says nothing of itself (OAuth) is not judged."""
    token = who.get("auth", {}).get("accessToken") or {}
    role = token.get("role")
    fix = f"make a token that may write to {repo_id}: {TOKEN_PAGE}"
    if role == "read":
        return Problem(what=f"the Hub token of {who['name']} can only read", where=WHERE, fix=fix)
    if role == "fineGrained":
        scopes = token.get("fineGrained", {}).get("scoped", [])
        writable = {s["entity"]["name"] for s in scopes if "repo.write" in s["permissions"]}
        if not writable & {repo_id, repo_id.partition("/")[0]}:
            return Problem(what=f"the fine-grained Hub token of {who['name']} cannot write to {repo_id}", where=WHERE, fix=fix)
    return None


def _namespaces(who: dict[str, Any]) -> list[str]:
    organisations = [o["name"] for o in who.get("orgs", []) if o.get("roleInOrg", "write") in WRITING_ROLES]
    return [who["name"], *organisations]


def _exists(api: HfApi, repo_id: str) -> bool:
    try:
        api.model_info(repo_id)
    except RepositoryNotFoundError:
        return False
    return True
