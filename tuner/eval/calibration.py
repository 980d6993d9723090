"""How far a classifier's confidence is from how often it is right: `confident(logits, right)` counts a row, `error` sums up."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tuner.eval.scores import Sums

BINS = 15  # Guo et al. 2017, https://arxiv.org/abs/1706.04599
NAME = "calibration_error"


def confident(logits: NDArray[np.float32], *, right: bool) -> dict[str, float]:
    """Counts of a row: its bin's confidence less whether it is right, and that it is one. `logits`: [classes]."""
    shares = np.exp(logits - logits.max(), dtype=np.float64)
    confidence = float(shares.max() / shares.sum())
    bin_of = min(int(confidence * BINS), BINS - 1)
    return {f"confidence/{bin_of}": confidence - right, "confidence/rows": 1.0}


def error(sums: Sums) -> Any:
    """Expected calibration error: over the bins of confidence the mean distance of it from accuracy, weighted by rows."""
    distances = sum(abs(np.asarray(sums[name])) for number in range(BINS) if (name := f"confidence/{number}") in sums)
    return distances / np.asarray(sums["confidence/rows"])
