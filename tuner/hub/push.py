"""Publishing a run: `publish(plan, recipe, progress=print)` lays out `published/` as a Hub repository and, with `hub.repo_id`, uploads it.

The upload is one commit: a reader of the repository sees the old state or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, get_token
from huggingface_hub.utils.tqdm import disable_progress_bars

from tuner.errors import ENVIRONMENT, TuneError
from tuner.hub.card import base_model
from tuner.hub.client import hub_errors
from tuner.hub.patience import patiently
from tuner.plan import Plan
from tuner.results import Results, public, read_results
from tuner.runs import disk_error, write_json, write_text
from tuner.schema.data import sources
from tuner.schema.recipe import Recipe

Progress = Callable[[str], None]

# What makes a repository, by name. Checkpoints, stages, plans, lock and held-out answers stay at home.
FILES = (
    "adapter_config.json", "adapter_model*.safetensors", "adapter_model.safetensors.index.json",
    "config.json", "model*.safetensors", "model.safetensors.index.json", "generation_config.json",
    "preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json",
    "tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "pytorch_lora_weights.safetensors", "unet/config.json", "unet/*.safetensors*", "transformer/config.json", "transformer/*.safetensors*",
    "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
    "chat_template.jinja", "README.md", "recipe.yaml", "metrics.json", "train_log.jsonl",
)  # fmt: skip
WEIGHTS = ("adapter_model.safetensors", "model.safetensors", "model.safetensors.index.json", "pytorch_lora_weights.safetensors")
PART = ("unet/config.json", "transformer/config.json")  # of a pipeline, with its weights beside it
TEXT = (".json", ".jsonl", ".yaml", ".md", ".html", ".txt", ".jinja")
TOKEN_LIKE = re.compile(rb"hf_[A-Za-z0-9]{30,}")


class NotUploadedError(TuneError):
    """The Hub did not take what is laid out: the run is complete, and `tune push` uploads it later."""


def publish(plan: Plan, recipe: Recipe, *, progress: Progress) -> dict[str, Any]:
    """The publish stage. Expects plan.json and README.md of the run to be this plan's, and this process to hold the run's lock.

    Returns {"folder"} or {"folder", "url", "commit"}. Raises TuneError (code 4) when the disk refuses or a file holds a token, and
    NotUploadedError where the Hub does not take it, after some tries.
    """
    folder = Path(plan.folder)
    run = read_results(folder)
    published = lay_out(run)
    if recipe.hub.repo_id is None:
        progress(f"published into {published}: upload it with `tune push {plan.name}@{folder.name} hub.repo_id=owner/name`")
        return {"folder": str(published)}
    try:
        return {"folder": str(published), **_upload(published, recipe, message=commit_message(run), progress=progress)}
    except TuneError as error:
        raise NotUploadedError(problems=error.problems, code=error.code) from error


def lay_out(run: Results) -> Path:
    """Make `published/` beside the run's files, whole or not at all."""
    folder, target = run.folder, run.folder / "published"
    wanted = (*FILES, "report.html", "samples.png") if run.recipe.hub.report else FILES
    names = sorted({p.relative_to(folder).as_posix() for pattern in wanted for p in folder.glob(pattern) if p.is_file()})
    if not set(names) & {*WEIGHTS, *PART}:
        fix = f"train first: `tune {shlex.quote('recipe=' + str(folder / 'recipe.yaml'))}`"
        raise TuneError("there are no weights to publish", str(folder), fix, code=ENVIRONMENT)
    for name in names:
        refuse_tokens(folder / name)
    partial, old = folder / ".published.partial", folder / ".published.old"
    try:
        for leftover in (partial, old):  # of a process that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir()
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            _copy(folder / name, partial / name)
        _make_public(partial, run)
        _as_the_umask_says(partial)
        if target.exists():
            target.rename(old)
        partial.rename(target)
    except OSError as error:
        raise disk_error(error, target) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return target


def _copy(source: Path, target: Path) -> None:
    """Weights are linked, since a second copy of a large model may not fit on the disk; where the file system cannot link, copied."""
    if source.suffix == ".safetensors":
        with contextlib.suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)


def _as_the_umask_says(folder: Path) -> None:
    """Give every file the rights that new files get (the folder is one of them): safetensors writes weights for their owner alone."""
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            path.chmod(folder.stat().st_mode & (0o777 if path.is_dir() else 0o666))


def _make_public(folder: Path, run: Results) -> None:
    """Take this machine out of what is published: the base by its Hub id, files by their names."""
    config = folder / "adapter_config.json"
    if config.is_file():
        values = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, values | {"base_model_name_or_path": base_model(run) or run.base_name})
    recipe = folder / "recipe.yaml"
    if recipe.is_file():
        text = recipe.read_text(encoding="utf-8")
        places = [str(v) for v in (run.recipe.output_dir, run.recipe.data.eval_path, run.recipe.model.id, run.recipe.model.run) if v]
        others = (getattr(run.recipe.adapter, "continue_from", None), getattr(run.recipe.task, "teacher", None))
        places += [v for v in others if v]
        places += [source.path for source in sources(run.recipe.data).values() if source.path]
        places += [f for found in run.plan.files.values() for f in found]
        for place in sorted((p for p in places if public(p) != p), key=len, reverse=True):
            text = text.replace(place, public(place))
        write_text(recipe, text)


def refuse_tokens(path: Path) -> None:
    """Raise TuneError (code 4) when a text file holds the token in use, or what looks like one."""
    if path.suffix not in TEXT:
        return
    content, token = path.read_bytes(), get_token()
    if TOKEN_LIKE.search(content) or (token and token.encode() in content):
        fix = "remove it from the file (and from the training rows, if it came from there), revoke the token, and push again"
        raise TuneError(f"{path.name} holds a Hub token: nothing was published", str(path), fix, code=ENVIRONMENT)


def commit_message(run: Results) -> str:
    """`quickstart@0123456789ab: exact match 0.02 → 0.81 (…)`."""
    return f"{run.plan.name}@{run.folder.name}: {run.verdict or run.method}"


def _upload(published: Path, recipe: Recipe, *, message: str, progress: Progress) -> dict[str, str]:
    """Create the repository where it is missing, and commit every file at once.

    Not `upload_folder`: with Xet it streams a large folder in several commits (huggingface_hub 2.4, _upload_pipeline.py).
    """
    repo_id, branch = str(recipe.hub.repo_id), recipe.hub.revision
    if not sys.stderr.isatty():
        disable_progress_bars()
    files = sorted(p for p in published.rglob("*") if p.is_file())
    size = sum(p.stat().st_size for p in files)
    api = HfApi()

    def commit_all() -> CommitInfo:
        api.create_repo(repo_id, private=recipe.hub.private, exist_ok=True)
        if branch:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        additions = [CommitOperationAdd(path_in_repo=p.relative_to(published).as_posix(), path_or_fileobj=p) for p in files]
        return api.create_commit(repo_id, additions, commit_message=message, revision=branch)

    progress(f"uploading {len(files)} files, {size / 1e6:.1f} MB, to {repo_id}")
    with hub_errors(f"publish to {repo_id}"):
        commit = patiently(commit_all, tell=progress)
    url = f"{commit.repo_url}/tree/{branch}" if branch else str(commit.repo_url)
    progress(f"published: {url}")
    return {"url": url, "commit": str(commit.oid)}
