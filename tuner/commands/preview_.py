"""`tune preview recipe=R [--row N] [key=value …]`: rows as the model sees them, what is trained told apart; statistics; nothing is trained.

tune preview recipe=my.yaml                 the first rows
tune preview recipe=my.yaml --row 7000      one row, counted from 1
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tuner.commands.request import parse, planned
from tuner.errors import TuneError


def main(args: list[str]) -> int:
    """Compose and plan here; rows and tokenizer are the worker's."""
    request = parse(args, flags=("--json", "--extensions", "--trust", "--row"), words=1)
    row = request.words[0] if request.words else ""
    if ("--row" in request.flags) != bool(row) or (row and not (row.isdigit() and int(row) > 0)):
        raise TuneError("`--row` takes a number, counted from 1", row, "as `tune preview recipe=my.yaml --row 7`")
    plan = planned(request)
    with tempfile.TemporaryDirectory(prefix="tune-preview-") as folder:
        path = Path(folder) / "plan.json"
        plan.write(path)
        options = ["--preview", row or "0", *(["--json"] if request.json else [])]
        return subprocess.run([sys.executable, "-m", "tuner.worker", str(path), *options], check=False).returncode
