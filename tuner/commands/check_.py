"""`tune check recipe=R [key=value …]`: recipe, rows, loss mask, memory, disk and Hub, before any training; nothing is trained or published.

Exit codes: 0 ready · 2 the recipe or its rows are wrong · 3 the loss mask cannot teach · 4 disk, device, model or Hub.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tuner.commands.request import parse, planned


def main(args: list[str]) -> int:
    """Compose and plan here; the rest needs torch and runs in a worker."""
    request = parse(args, flags=("--json", "--extensions", "--trust"))
    plan = planned(request)
    with tempfile.TemporaryDirectory(prefix="tune-check-") as folder:
        path = Path(folder) / "plan.json"
        plan.write(path)
        return subprocess.run(
            [sys.executable, "-m", "tuner.worker", str(path), "--check", *(["--json"] if request.json else [])], check=False
        ).returncode
