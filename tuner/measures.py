"""One measurement, base against tuned, in words: `Metric(key="exact_match", base=0.02, tuned=0.81).sentence`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

LOWER_IS_BETTER = ("teacher_kl", "loss", "general_loss", "calibration_error", "perplexity", "mae", "chosen_loss", "wer", "cer")
HARNESS_LOWER = ("perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter", "wer", "mse")  # of lm-eval
HEADLINES = (
    "reward",
    "valid_call",
    "exact_match",
    "valid_json",
    "map",
    "bleu",
    "rougeL",
    "chrf",
    "wer",
    "cer",
    "f1",
    "spearman",
    "ndcg@10",
    "mean_iou",
    "accuracy",
    "masked_accuracy",
    "preference_accuracy",
    "reward_accuracy",
    "margin",
    "teacher_kl",
    "f1_macro",
    "loss",
)  # the first of these that was measured is the run's result in one line

NAMES = {
    "general_loss": "loss on general texts",
    "judge_win_rate": "preferred by the judge",
    "valid_json": "valid JSON",
    "valid_call": "valid call",
    "call_match": "same call",
    "bleu": "BLEU",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "f1": "F1",
    "answered_f1": "F1 (answered)",
    "f1_macro": "macro F1",
    "f1_micro": "micro F1",
    "wer": "word error rate",
    "cer": "character error rate",
    "mae": "mean absolute error",
    "teacher_kl": "KL to the teacher",
    "ndcg@10": "nDCG@10",
    "mrr@10": "MRR@10",
    "mean_iou": "mean IoU",
    "map": "mean AP",
    "map_50": "mean AP@50",
}
GROUPS = {"field/": "Fields of the answer", "iou/": "IoU of each class"}  # measurements of a part, and what they are called together
PARTED = ("field", "iou", "reward")  # what stands before a slash that is no benchmark's name
SIGNED = ("pearson", "spearman", "margin", "reward")
HUNDREDS = ("bleu", "chrf")  # between 0 and 100, as sacrebleu gives them


def lower_is_better(key: str) -> bool:
    """Whether a measurement is of something bad: `loss`, `wikitext/word_perplexity`."""
    name, slash, metric = key.partition("/")
    return metric.partition(":")[0] in HARNESS_LOWER if slash and name not in PARTED else key in LOWER_IS_BETTER


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One measurement, base against tuned. `low` and `high`: 95 % interval of tuned − base, where one was computed.

    `verdict`: `better`, `worse` or `cannot tell` (the interval holds 0); `not tested` where there is no interval.
    """

    key: str
    base: float | None
    tuned: float | None
    low: float | None = None
    high: float | None = None
    verdict: str = "not tested"

    @property
    def name(self) -> str:
        """`field/intent` as "intent", `exact_match` as "exact match", `arc_easy/acc` as it is."""
        if self.is_benchmark:
            return self.key
        if self.group:
            return self.part if self.is_field else f"IoU of {self.part}"
        return NAMES.get(self.key) or self.key.replace("_", " ")

    @property
    def group(self) -> str:
        """What it is called together with others of its kind, where it measures a part: `Fields of the answer`."""
        return "Benchmarks" if self.is_benchmark else GROUPS.get(self.key[: self.key.find("/") + 1], "")

    @property
    def is_benchmark(self) -> bool:
        """Whether a task of lm-eval gave it: `arc_easy/acc`."""
        prefix, slash, _ = self.key.partition("/")
        return bool(slash) and prefix not in PARTED

    @property
    def part(self) -> str:
        """The part that it measures: `intent` of `field/intent`."""
        return self.key if self.is_benchmark else self.key.partition("/")[2]

    @property
    def is_field(self) -> bool:
        """Whether it is the accuracy of one JSON field."""
        return self.key.startswith("field/")

    @property
    def is_rate(self) -> bool:
        """Whether it lies between 0 and 1."""
        known = not lower_is_better(self.key) and self.key not in (*SIGNED, *HUNDREDS)
        return known and all(value is None or not value > 1 for value in (self.base, self.tuned))  # NaN: none was measured

    @property
    def change(self) -> float | None:
        """Tuned − base."""
        return None if self.base is None or self.tuned is None else self.tuned - self.base

    @property
    def interval(self) -> str:
        """The interval as text: `0.71–0.86`, or `−2.6 to −2.4` where a dash would be read as a sign."""
        if self.low is None or self.high is None:
            return ""
        joint = "–" if self.low >= 0 else " to "
        return f"{figure(self.low)}{joint}{figure(self.high)}"

    @property
    def sentence(self) -> str:
        """`exact match 0.02 → 0.81 (+0.79, 95 % interval 0.71–0.86)`."""
        if self.change is None:
            return f"{self.name} {figure(self.base if self.tuned is None else self.tuned)}"
        tested = f", 95 % interval {self.interval}" if self.interval else ""
        return f"{self.name} {figure(self.base)} → {figure(self.tuned)} ({figure(self.change, signed=True)}{tested})"


HUGE = 100_000


def figure(value: float | None, *, signed: bool = False) -> str:
    """A measurement with two decimals, three where two would round it to 0 or 1, one where it is large, 6.32e6; a dash for none."""
    if value is None or math.isnan(value):
        return "–"
    size = abs(value)
    if size >= HUGE:
        return f"{value:{'+' if signed else ''}.2e}".replace("e+0", "e").replace("-", "−")
    decimals = 1 if size >= 100 else 3 if size not in (0.0, 1.0) and f"{size:.2f}" in ("0.00", "1.00") else 2
    text = f"{value:+,.{decimals}f}" if signed else f"{value:,.{decimals}f}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """272 as `4 min 32 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def as_text(value: Any) -> str:
    """A recipe value as YAML would show it, on one line."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value and not 1e-3 <= abs(value) < 1e6 and math.isfinite(value):
        return f"{value:g}"
    return json.dumps(value, ensure_ascii=False)
