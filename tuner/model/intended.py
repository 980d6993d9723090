"""Whether a merged adapter is what was meant: `measure(…)` works out each module's update from the sources; what was loaded must be it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor

from tuner.errors import GATE, TuneError

NEAR_SUM = 1e-3  # of the largest part's size


def layers_of(model: PeftModel, *names: str) -> Iterator[tuple[str, Any]]:
    """Path in the base and module, of those that one of these adapters changes."""
    for path, module in model.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and any(has(module, name) for name in names):
            yield path, module


def has(layer: Any, name: str) -> bool:
    """Whether an adapter changes this module."""
    return name in layer.lora_A or name in layer.lora_embedding_A


def factors(layer: Any, name: str) -> tuple[Tensor, Tensor]:
    """A and B; their first and second dimension is the rank."""
    if name in layer.lora_A:
        return layer.lora_A[name].weight, layer.lora_B[name].weight
    return layer.lora_embedding_A[name], layer.lora_embedding_B[name]


@torch.no_grad()
def measure(
    model: PeftModel, names: list[str], weights: list[float], method: str, result: str, loaded: PeftModel, where: str
) -> list[float]:
    """How far the loaded result is from each source, relative to its size. Raises TuneError (code 3) where a module is not as meant."""
    there = dict(layers_of(loaded, "default"))
    away, size = [0.0] * len(names), [0.0] * len(names)
    for path, layer in layers_of(model, *names, result):
        parts = [layer.get_delta_weight(name) if has(layer, name) else None for name in names]
        shape = next((part for part in parts if part is not None), None)
        if shape is None or path not in there:
            _wrong(f"it has {'no' if path not in there else 'another'} module {path}", where)
        found = there.pop(path).get_delta_weight("default")
        scaled = [torch.zeros_like(found) if part is None else weight * part for part, weight in zip(parts, weights, strict=True)]
        if not bool(found.isfinite().all()):
            raise TuneError(f"the merged adapter is not a number, at {path}", where, "take smaller weights", code=GATE)
        error = _error(layer, names, weights, method, result, found, sum(scaled[1:], scaled[0]))
        largest = max(float(part.norm()) for part in scaled)
        if not error <= NEAR_SUM * largest:
            _wrong(f"at {path} it is {error / largest if largest else math.inf:.0%} away", where)
        for index, part in enumerate(parts):
            away[index] += float((found if part is None else found - part).square().sum())
            size[index] += 0.0 if part is None else float(part.square().sum())
    if there:
        _wrong(f"it has another module {min(there)}", where)
    return [math.sqrt(a / s) if s else 0.0 for a, s in zip(away, size, strict=True)]


def _wrong(what: str, where: str) -> None:
    raise TuneError(f"the merged adapter is not what was meant: {what}", where, "nothing is kept; report it with `tune doctor`", code=GATE)


def _error(layer: Any, names: list[str], weights: list[float], method: str, result: str, found: Tensor, total: Tensor) -> float:
    """Norm of the difference from what the method should give; `total` is the weighted sum of the updates."""
    if method == "cat":
        return float((found - total).norm())
    if method == "svd":  # the best of its rank is as far from the sum as the singular values that are cut off
        flat = (found - total).flatten(1)
        cut = torch.linalg.svdvals(total.flatten(1))[layer.r[result] :]
        return abs(float(flat.norm()) - float(cut.norm()))
    a, b = _linear(layer, names, weights) if method == "linear" else factors(layer, result)
    return float((found - _product(layer, a, b).reshape(found.shape)).norm())


def _linear(layer: Any, names: list[str], weights: list[float]) -> tuple[Tensor, Tensor]:
    """Sums of the factors: each has the root of weight times scale, and A its sign."""
    sums: list[Any] = [0, 0]
    for name, weight in zip(names, weights, strict=True):
        if has(layer, name):
            scale = weight * layer.scaling[name]
            a, b = factors(layer, name)
            sums = [sums[0] + math.copysign(math.sqrt(abs(scale)), scale) * a, sums[1] + math.sqrt(abs(scale)) * b]
    return sums[0], sums[1]


def _product(layer: Any, a: Tensor, b: Tensor) -> Tensor:
    """The update that these factors are, with no scale: what pruned factors are meant to be."""
    made = b.flatten(1) @ a.flatten(1)
    turned = bool(layer.lora_embedding_A) or getattr(layer, "fan_in_fan_out", False)
    return made.T if turned else made
