"""Doctor's findings about the machine: processor, GPU, disk and Hub, without importing torch. `disk()` yields a finding a folder."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tuner.capacity import bf16_units
from tuner.commands.inventory import human_size
from tuner.commands.packages import Finding
from tuner.files import cache_dir

TIMEOUT_S = 3
LITTLE_BYTES, TOO_LITTLE_BYTES = 5_000_000_000, 1_000_000_000
TORCH_DEVICES = """
import torch
print("torch", torch.__version__, "threads", torch.get_num_threads())
for i in range(torch.cuda.device_count()):
    print(torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)[1] // 10**9, "GB, bf16", torch.cuda.is_bf16_supported())
if torch.backends.mps.is_available():
    print("mps")
"""


def processor() -> Iterator[Finding]:
    """Cores, memory, and whether the CPU multiplies bf16 itself."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    yield Finding(check="processor", status="ok", what=f"{platform.machine()}, {cores} cores for this process, {_memory()}")
    able = bf16_units()
    if able:
        yield Finding(check="bf16", status="ok", what=f"the CPU multiplies bf16 itself ({', '.join(able)})")
    elif able is not None:
        what = "the CPU has no bf16 instructions: `trainer.precision=auto` trains in fp32 on it (bf16 works, some 30 times slower)"
        yield Finding(check="bf16", status="ok", what=what)


def _memory() -> str:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")  # a container's own limit
    text = limit.read_text(encoding="utf-8").strip() if limit.is_file() else "max"
    return f"{human_size(min(total, total if text == 'max' else int(text)))} of memory"


def gpu() -> Iterator[Finding]:
    """NVIDIA GPUs as the driver's own tool names them."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        yield Finding(check="gpu", status="ok", what="Apple silicon (`hardware=mps`)")
        return
    if shutil.which("nvidia-smi") is None:
        yield Finding(check="gpu", status="ok", what="none found (no nvidia-smi): work is placed on the CPU")
        return
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        yield Finding(check="gpu", status="warn", what="nvidia-smi is there but does not answer", fix="check the driver: run `nvidia-smi`")
        return
    for line in answer.stdout.splitlines():
        yield Finding(check="gpu", status="ok", what=line)


def torch_devices() -> Iterator[Finding]:
    """What torch sees, in a process of its own."""
    answer = subprocess.run([sys.executable, "-c", TORCH_DEVICES], capture_output=True, text=True, timeout=120, check=False)
    if answer.returncode:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(
            check="torch",
            status="fail",
            what=f"torch cannot be used: {last}",
            fix="install it again: `pip install --force-reinstall torch`",
        )
    for line in answer.stdout.splitlines():
        yield Finding(check="torch", status="ok", what=line)


def disk() -> Iterator[Finding]:
    """Free space and write access where models and runs go."""
    from huggingface_hub import constants

    for name, path in (("cache", cache_dir()), ("Hub cache", Path(constants.HF_HUB_CACHE)), ("outputs", Path("outputs").absolute())):
        parent = next(p for p in (path, *path.parents) if p.exists())
        free = shutil.disk_usage(parent).free
        what = f"{name}: {human_size(free)} free at {path}"
        if not os.access(parent, os.W_OK):
            variable = {"cache": "set TUNER_CACHE", "Hub cache": "set HF_HOME", "outputs": "set output_dir"}[name]
            yield Finding(
                check="disk", status="fail", what=f"{name}: {parent} cannot be written", fix=f"{variable} to a folder you can write"
            )
        elif free < LITTLE_BYTES:
            status = "fail" if free < TOO_LITTLE_BYTES else "warn"
            yield Finding(check="disk", status=status, what=what, fix="free some space: `tune gc --yes` deletes what no run needs")
        else:
            yield Finding(check="disk", status="ok", what=what)


def hub() -> Iterator[Finding]:
    """Whether the Hub answers, and whether a token is there and valid. The token itself is never shown."""
    from huggingface_hub import constants, get_session, get_token

    if constants.is_offline_mode():
        yield Finding(check="hub", status="ok", what="offline, as HF_HUB_OFFLINE says: models and data come from caches and local files")
        return
    token, endpoint = get_token(), constants.ENDPOINT
    answers: list[tuple[int, str]] = []

    def ask() -> None:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            answer = get_session().get(f"{endpoint}/api/whoami-v2", headers=headers, timeout=TIMEOUT_S)
            answers.append((answer.status_code, answer.json().get("name", "") if answer.status_code == 200 else ""))
        except Exception:  # any fault of the network is one finding; its text may quote the request, so it is not shown
            return

    # A name that does not resolve can block for far longer than any HTTP timeout: a daemon thread can be left behind.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(TIMEOUT_S)
    code, name = answers[0] if answers else (0, "")
    yield hub_finding(code, endpoint=endpoint, user=name, has_token=bool(token))


def hub_finding(code: int, *, endpoint: str, user: str, has_token: bool) -> Finding:
    """What an answer of `/api/whoami-v2` means; code 0 is no answer."""
    offline = "HF_HUB_OFFLINE=1 says that it is meant; the quickstart needs no Hub"
    if not code:
        fix = f"check the network or HF_ENDPOINT; {offline}"
        return Finding(check="hub", status="warn", what=f"{endpoint} did not answer within {TIMEOUT_S} s", fix=fix)
    if code == 200:
        return Finding(check="hub", status="ok", what=f"{endpoint} answers, logged in as {user}")
    if code not in (401, 403):
        fix = f"check HF_ENDPOINT or the proxy; {offline}"
        return Finding(check="hub", status="warn", what=f"{endpoint} answers with HTTP {code}: no Hub is there", fix=fix)
    if has_token:
        return Finding(check="hub", status="warn", what=f"{endpoint} refuses the token (HTTP {code})", fix="log in again: `hf auth login`")
    fix = "to push or to read gated models: `hf auth login`, or set HF_TOKEN"
    return Finding(check="hub", status="ok", what=f"{endpoint} answers; no token ({fix})")
