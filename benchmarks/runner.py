"""The one runner: `compare({"tune": Job([...]), "trl": Job([...])}, repeats=3)` runs commands in turn and reports medians and ratios.

Repeats are interleaved (a b a b …), so that a machine that slows down slows both. Wall and CPU seconds and peak memory are the whole
process tree's, from the kernel (wait4).
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SETTLE_S = 8.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command to time. With `until`, the clock stops at the first line of its output that holds this text, and the command is ended."""

    argv: list[str]
    until: str = ""
    env: dict[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    marks: dict[str, str] = field(default_factory=dict)


@dataclass(kw_only=True)
class Sample:
    """One run: seconds, bytes, and the seconds at which each mark was seen."""

    wall_s: float
    cpu_s: float
    peak_rss_bytes: int
    marks: dict[str, float]


def run(job: Job) -> Sample:
    """Run a job once. Raises RuntimeError with the end of its output when it fails."""
    began = time.perf_counter()
    environment = os.environ | {"PYTHONUNBUFFERED": "1"} | job.env
    process = subprocess.Popen(job.argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=job.cwd)
    assert process.stdout is not None
    lines: list[str] = []
    marks: dict[str, float] = {}
    wall = 0.0
    for line in process.stdout:
        lines.append(line)
        now = time.perf_counter() - began
        for name, text in job.marks.items():
            if text in line:
                marks.setdefault(name, now)
        if job.until and job.until in line:
            wall = now
            process.kill()
            time.sleep(SETTLE_S)  # what it started ends by itself, and must not slow the next job
            break
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if not wall and (job.until or process.returncode != 0):
        raise RuntimeError(f"{' '.join(job.argv)} ended with {process.returncode}:\n" + "".join(lines[-30:]))
    wall = wall or time.perf_counter() - began
    return Sample(wall_s=wall, cpu_s=usage.ru_utime + usage.ru_stime, peak_rss_bytes=usage.ru_maxrss * 1024, marks=marks)


def compare(jobs: dict[str, Job], *, repeats: int) -> dict[str, dict[str, Any]]:
    """Medians of interleaved repeats, by name; `ratio` is to the first job."""
    samples: dict[str, list[Sample]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            samples[name].append(run(job))
    first = statistics.median(s.wall_s for s in samples[next(iter(jobs))])
    found = {}
    for name, taken in samples.items():
        walls = [s.wall_s for s in taken]
        found[name] = {
            "wall_s": round(statistics.median(walls), 3),
            "wall_min_s": round(min(walls), 3),
            "cpu_s": round(statistics.median(s.cpu_s for s in taken), 3),
            "peak_rss_mb": round(max(s.peak_rss_bytes for s in taken) / 1e6),
            "ratio": round(statistics.median(walls) / first, 2),
            "marks_s": {
                m: round(statistics.median(s.marks[m] for s in taken if m in s.marks), 2) for m in jobs[name].marks if m in taken[0].marks
            },
            "repeats": repeats,
        }
    return found


def report(title: str, found: dict[str, dict[str, Any]], *, folder: Path) -> None:
    """Print a table, and write `<title>.json` with the machine's description."""
    print(f"\n{title}\n{'':<34}{'wall s':>9}{'min':>9}{'cpu s':>9}{'MB':>7}{'ratio':>8}")
    for name, row in found.items():
        marks = "  ".join(f"{m} {s:.2f}" for m, s in row["marks_s"].items())
        sizes = f"{row['peak_rss_mb']:>7}{row['ratio']:>8.2f}"
        print(f"{name:<34}{row['wall_s']:>9.3f}{row['wall_min_s']:>9.3f}{row['cpu_s']:>9.3f}{sizes}  {marks}")
    folder.mkdir(parents=True, exist_ok=True)
    machine = {"cpus": os.cpu_count(), "system": platform.platform(), "python": sys.version.split()[0]}
    (folder / f"{title.replace(' ', '-')}.json").write_text(json.dumps({"machine": machine, "results": found}, indent=1) + "\n")
