"""What a result was made with: `snapshot(recipe, device=…)` -> versions, machine, device and the Hub commits, as `lock.json` holds them."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import tuner
from tuner.registry import load
from tuner.schema.recipe import Recipe

PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "diffusers",
    "trl",
    "datasets",
    "accelerate",
    "bitsandbytes",
    "huggingface_hub",
    "hydra-core",
    "omegaconf",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Versions of the packages that a result may depend on, where installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            return next((line.split(":", 1)[1].strip() for line in stream if line.startswith("model name")), platform.machine())
    except OSError:
        return platform.processor() or platform.machine()


def snapshot(recipe: Recipe, *, device: Any) -> dict[str, Any]:
    """Everything that a later reader of the result would ask. No host or user name."""
    name = processor() if device.type == "cpu" else load("torch").cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "tuner": tuner.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": {
            "type": device.type,
            "name": name,
            "threads": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "formats": {"precision": recipe.trainer.precision.value, "dtype": recipe.model.dtype.value},
        "versions": versions(),
        "commits": load("tuner.hub.revisions").commits(recipe),
        "wheel": {"requirement": recipe.model.wheel.requirement, "sha256": recipe.model.wheel.sha256} if recipe.model.wheel else None,
    }
