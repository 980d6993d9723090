"""The `eval:` section: what is measured, base against tuned, on the held-out rows. `eval: {metrics: [json, exact_match]}`."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.schema.base import Section, opt


@dataclass(kw_only=True)
class Eval(Section):
    """Measurements on the held-out rows; loss and perplexity always, the named metrics on generated answers."""

    enabled: bool = opt(True, affects="evaluate")
    """Whether anything is measured after training."""
    generate: bool = opt(True, affects="baseline evaluate")
    """Generate answers (greedily, with the serving path) and score them, not the loss alone."""
    metrics: list[str] = opt(factory=lambda: ["exact_match"], affects="baseline evaluate")
    """Scores of a generated answer: `exact_match`, `json` (validity and one accuracy a field), `bleu`, `chrf`, `rouge` (1, 2, L),
    `tool_calls` (valid, and the same)."""
    max_new_tokens: int = opt(256, affects="baseline evaluate", ge=1)
    """Longest generated answer, in tokens."""
    batch_size: int = opt(32, ge=1)
    """Rows generated at once."""
    limit: int | None = opt(None, affects="baseline evaluate", ge=1)
    """Measure the first so many held-out rows."""
    gate: list[str] = opt(factory=list)
    """Rules that the result must meet, else nothing is published and the run ends with code 3: `exact_match > base + 0.05`,
    `loss < 1.2`, `f1 is better` (by its interval), `loss is not worse`."""
    bootstrap_samples: int = opt(1000, affects="evaluate", ge=100)
    """Resamples behind the confidence interval of tuned minus base."""
    examples: int = opt(10, ge=0)
    """Example outputs shown in the report."""
