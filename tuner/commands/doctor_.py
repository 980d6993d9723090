"""`tune doctor`: Python, versions against the supported range, devices, disk, Hub and extensions, each with a fix where something is wrong.

Exit code 4 when anything fails. Nothing takes longer than a few seconds, with or without a network; `--deep` also asks torch about devices.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from tuner.commands import machine, packages
from tuner.commands.packages import Finding
from tuner.commands.request import parse
from tuner.errors import ENVIRONMENT
from tuner.render import out, print_json

COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def main(args: list[str]) -> int:
    """Examine the environment."""
    request = parse(args, flags=("--json", "--deep"))
    checks: list[Callable[[], Iterator[Finding]]] = [packages.python, packages.versions, machine.processor, machine.gpu]
    checks += [machine.torch_devices] if "--deep" in request.flags else []
    checks += [machine.disk, machine.hub, packages.extensions]
    findings = []
    for check in checks:
        for finding in check():
            findings.append(finding)
            if not request.json:
                _print(finding)
    failed = [f for f in findings if f.status == "fail"]
    if request.json:
        print_json({"ok": not failed, "findings": [dataclasses.asdict(f) for f in findings]})
    else:
        warned = sum(f.status == "warn" for f in findings)
        out.print(f"\n{len(findings) - warned - len(failed)} ok, {warned} to know, {len(failed)} to mend")
    return ENVIRONMENT if failed else 0


def _print(finding: Finding) -> None:
    out.print(f"[{COLOURS[finding.status]}]{finding.status:<5}[/]", end="")
    out.print(f"{finding.check:<12} {finding.what}", markup=False)
    if finding.fix:
        out.print(f"{'':<18}fix: {finding.fix}", markup=False)
