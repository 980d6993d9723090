"""Brings a run folder's own files up to date with its plan: `summarise(plan)` writes metrics.json, report.html and README.md anew."""

from __future__ import annotations

from pathlib import Path

from tuner.eval.report import write_report
from tuner.hub.card import write_card
from tuner.plan import Plan
from tuner.runs import read_json, write_json


def summarise(plan: Plan) -> None:
    """Metrics of this plan's evaluation (or none), report, model card. Expects plan.json to be this plan's."""
    folder = Path(plan.folder)
    if plan.has("evaluate") and plan.stage("evaluate").done:
        write_json(folder / "metrics.json", read_json(folder / "eval" / plan.stage("evaluate").key / "metrics.json"))
    else:
        (folder / "metrics.json").unlink(missing_ok=True)
    write_report(folder)
    write_card(folder)
