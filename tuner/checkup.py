"""Everything that can be known before training: `findings(run)` prepares and audits the rows, and looks at memory, disk, model and Hub."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import psutil
import torch

from tuner.context import Run
from tuner.data import contamination
from tuner.data.audit import overlong, sizes, taught
from tuner.data.splits import facts, held_out
from tuner.data.transform import told
from tuner.errors import ENVIRONMENT, OK, Problem, TuneError
from tuner.estimate import estimate
from tuner.hub.preflight import preflight
from tuner.memory import STATES
from tuner.pipeline import execute
from tuner.preview import print_segments
from tuner.render import number, out, print_error, print_json
from tuner.runs import read_json
from tuner.tasks import Task, module_of
from tuner.train.budget import copies
from tuner.train.possible import of_its_kind
from tuner.train.tracking import trackers_ready

Finding = dict[str, str]


def report(run: Run, *, as_json: bool) -> int:
    """Print every finding, the audited sample last; the exit code is that of the worst: 0, 3 a gate, 4 environment, 2 recipe."""
    found, error = findings(run)
    audit = Path(run.stage_folder("prepare")) / "audit.json"
    if as_json:
        print_json({"findings": found, "audit": read_json(audit) if audit.is_file() else None})
        return error.code if error else OK
    for finding in found:
        mark = {"ok": "[green]ok  [/]", "warn": "[yellow]warn[/]", "fail": "[red]fail[/]"}[finding["state"]]
        out.print(f"{mark} {finding['name']:<8} ", end="")
        out.print(finding["text"], markup=False)
    if audit.is_file():
        show_sample(read_json(audit))
    if error:
        out.print()
        print_error(error)
        return error.code
    return OK


def findings(run: Run) -> tuple[list[Finding], TuneError | None]:
    """(what was looked at, the first error of the worst kind)."""
    found: list[Finding] = []
    error: TuneError | None = None
    for name, look in {"model": _model, "data": _data, "training": _training}.items():
        try:
            found += look(run)
        except TuneError as caught:
            error = error or caught
            found.append(
                {"name": name, "state": "fail", "text": "; ".join(f"{p.where}: {p.what}" if p.where else p.what for p in caught.problems)}
            )
            if name == "model":  # nothing else can be told with it
                break
    size = estimate(run.plan)
    found.append(_memory(run, size.memory_bytes))
    found.append(_disk(run, size.trainable))
    problems: list[Problem] = preflight(run.recipe) if run.plan.has("publish") else []
    repo = run.recipe.hub.repo_id
    target = f"publishes to {repo}" if repo else "publishes into the run folder (no hub.repo_id)"
    found.append({"name": "hub", "state": "fail" if problems else "ok", "text": "; ".join(p.what for p in problems) or target})
    if problems and error is None:
        error = TuneError(problems=problems, code=ENVIRONMENT)
    lacking = [f for f in found if f["state"] == "fail" and f["name"] == "disk"]
    if lacking and error is None:
        error = TuneError(lacking[0]["text"], run.plan.folder, "free some space (`tune gc`), or set output_dir", code=ENVIRONMENT)
    return found, error


def _model(run: Run) -> list[Finding]:
    of_its_kind(run)
    return []


def _data(run: Run) -> list[Finding]:
    execute(run, only=("prepare",))
    folder = run.stage_folder("prepare")
    audit, data = read_json(folder / "audit.json"), read_json(folder / "data.json")
    first = "a stream: its first " if "streaming" in data else ""
    rows = f"{first}{number(data['train']['rows'])} rows to train, {number(len(held_out(run)))} held out"
    rows += "" if "pixels" in data["train"] else f", {number(audit['tokens'])} tokens"
    found = [{"name": "data", "state": "ok", "text": f"{rows}; {sizes(data['train'])}"}]
    masked = audit["rows_fully_masked"]
    text = taught(audit) + ("" if "taught" in audit else f"; {masked} rows have none and are left out; {overlong(audit)}")
    if "end_of_turn" in audit:
        text += f"; the end of turn {audit['end_of_turn']} is {'trained' if audit['end_of_turn_trained'] else 'NOT trained'}"
    silent = audit.get("rows_without_answer", 0)
    text += f"; {number(silent)} rows have an empty answer" if silent else ""
    found.append(
        {
            "name": next((name for key, name in (("taught", "captions"), ("labels", "labels")) if key in audit), "mask"),
            "state": "warn" if masked or silent or audit["rows_truncated"] else "ok",
            "text": text,
        }
    )
    found += _cleaned(run)
    if run.recipe.eval.enabled:
        _task(run).check(run, held_out(run))
    return found


def _cleaned(run: Run) -> list[Finding]:
    """What the transforms did, and which training rows hold parts of held-out ones: looked at now, since held-out rows may be others."""
    about = facts(run)
    found = [{"name": "steps", "state": "ok", "text": told(report)} for report in about["transforms"]]
    if overlap := about.get("contamination"):
        state = "warn" if overlap["rows"] and overlap["done"] == "report" else "ok"
        text = contamination.told(overlap) + (", dropped" if overlap["rows"] and overlap["done"] == "drop" else "")
        found.append({"name": "held out", "state": state, "text": text})
    return found


def _training(run: Run) -> list[Finding]:
    trackers_ready(run.recipe.tracking)
    _task(run).possible(run)
    return [{"name": "training", "state": "ok", "text": f"{run.recipe.adapter.kind} fits {run.recipe.model.id}"}]


def _task(run: Run) -> Task:
    return module_of(run.recipe.task)


def _memory(run: Run, needed: int | None) -> Finding:
    free = torch.cuda.mem_get_info(run.device)[0] if run.device.type == "cuda" else psutil.virtual_memory().available
    if needed is None and not run.recipe.task.planned:
        return {"name": "memory", "state": "ok", "text": f"{free / 1e9:.1f} GB free; the need of such models is not worked out"}
    if needed is None:
        return {"name": "memory", "state": "warn", "text": f"{free / 1e9:.1f} GB free; the need is unknown (`model.shape` is not set)"}
    text = f"about {needed / 1e9:.1f} GB needed, {free / 1e9:.1f} GB free on {run.device.type}"
    return {"name": "memory", "state": "ok" if needed < free else "warn", "text": text}


def _disk(run: Run, trainable: int | None) -> Finding:
    place = next(p for p in (run.folder, *run.folder.parents) if p.exists())
    free = shutil.disk_usage(place).free
    trainer = run.recipe.trainer
    kept = copies(run.recipe, trainer.max_steps or 10**9)
    states = STATES[trainer.optim] + (trainer.ema_decay is not None)
    needed = round((trainable or 0) * 4 * ((1 + states) * kept + 1))  # and the result
    text = f"about {needed / 1e9:.1f} GB needed for {kept} checkpoints, {free / 1e9:.1f} GB free"
    return {"name": "disk", "state": "ok" if needed < free else "fail", "text": text}


def show_sample(audit: dict[str, Any]) -> None:
    """The audited row, what is trained in green (in brackets where there is no colour)."""
    out.print(
        "\none row, what is trained in [green]green[/]:" if out.is_terminal else "\none row, what is trained in [[brackets]]:",
        markup=out.is_terminal,
    )
    print_segments(audit["sample"])
