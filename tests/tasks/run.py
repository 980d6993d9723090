"""`tune …` as a person types it in a folder, for as long as a real training takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def tune(folder: Path, *args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    argv = [sys.executable, "-m", "tuner", *args]
    return subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=1500, check=False)
