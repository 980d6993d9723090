"""Runs a command with a new output folder each time: `python -m benchmarks.fresh FOLDER tune recipe=x`."""

from __future__ import annotations

import os
import sys
import tempfile

folder = tempfile.mkdtemp(dir=sys.argv[1])
os.execvp(sys.argv[2], [*sys.argv[2:], f"output_dir={folder}"])
